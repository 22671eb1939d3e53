"""The pictures of a report, one function each; None where there is nothing to draw.

In: a `Report` and the epochs of its model's fits. Out: `Picture`s.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from recsys.metrics import Interval
from training.evaluation.details import CUTS, NO_EVENT, POOL, CalibrationBin, Shares
from training.evaluation.new_items import ALL
from training.evaluation.report import Report
from training.pictures.canvas import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    PALE,
    SKY,
    Canvas,
    Picture,
    label,
    plain,
    point,
    rows,
    whiskers,
)
from training.pictures.words import in_words

Epochs = list[dict[str, float]]
"""Per epoch: epoch, loss and, if validated, ndcg@10 and tuned (1 where the text encoder was)."""

SERVED, CHOSEN = "refit", "choose"
MOST_FEATURES = 15
MOST_CATEGORIES = len(COLOURS)
NDCG = "ndcg@10"
OURS = "this model"
ROW_IN = 0.34
"""Height of a row."""


def pictures(report: Report | None, fits: Mapping[str, Epochs]) -> list[Picture]:
    """Return what can be drawn of a `report`, where there is one, and of the epochs of its model's `fits`."""
    charts: tuple[Callable[[Report], Picture | None], ...] = (
        baselines, segments, sources, proposals, new_items, popularity, calibration, importance, catalogue,
    )  # fmt: skip
    drawn = [chart(report) for chart in charts if report] + [learning(fits)]
    return [picture for picture in drawn if picture]


def baselines(report: Report) -> Picture | None:
    """Draw ndcg@10 of the model and of every baseline."""
    if not report.differences:
        return None
    named = {OURS: report.metrics[NDCG]} | {name: row[NDCG] for name, row in report.baselines.items()}
    order = sorted(named, key=lambda name: -named[name].value)
    best = min(report.differences, key=lambda name: report.differences[name].value)
    gap = report.differences[best]
    canvas = Canvas(0.7 + ROW_IN * len(order))
    panel = canvas.panels[0]
    for row, name in enumerate(order):
        colour, marker = (BLUE, "D") if name == OURS else (GREY, "o") if name in report.differences else (ORANGE, "o")
        point(panel, row, named[name], colour, marker)
    rows(panel, [name if name in (OURS, *report.differences) else f"{name} (best possible)" for name in order])
    panel.set_xlim(left=0)
    label(panel, f"ndcg@10 on {report.split}, {report.n:,} requests")
    verdict = "above every baseline" if gap.low > 0 else f"not above the best baseline, {best}"
    return canvas.finish(
        "baselines",
        f"This model is {verdict}",
        f"Whether the model is above a baseline is decided by the difference on the same requests: to {best} "
        f"it is {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}].",
    )


def segments(report: Report) -> Picture | None:
    """Draw ndcg@10 by segment."""
    if not report.segments:
        return None
    names, whole = list(report.segments), report.metrics[NDCG]
    canvas = Canvas(0.7 + ROW_IN * len(names))
    panel = canvas.panels[0]
    panel.axvline(whole.value, color=BLACK, linestyle="--", linewidth=1)
    for row, name in enumerate(names):
        point(panel, row, report.segments[name]["metrics"][NDCG], BLUE)
    rows(panel, [f"{name} ({report.segments[name]['n']:,})" for name in names])
    panel.set_xlim(left=0)
    label(panel, f"ndcg@10 on {report.split}; dashed: all {report.n:,} requests", "segment (requests)")
    values = {name: report.segments[name]["metrics"][NDCG].value for name in names}
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return canvas.finish(
        "segments",
        f"Lists are best for “{highest}” and weakest for “{lowest}”"
        if lowest != highest
        else "How good lists are by segment",
        "Segments of targets (cold and known items, event types) count only the targets of their kind.",
    )


def sources(report: Report) -> Picture | None:
    """Draw what each candidate source proposes, and what it alone proposes."""
    curves = report.details.sources
    if not curves:
        return None
    order = sorted(curves, key=lambda name: -curves[name].at_quota.value)
    recalls, alone = ([getattr(report.sources[name], kind) for name in order] for kind in ("recall", "alone"))
    canvas = Canvas(1.0 + ROW_IN * len(order))
    panel, rows_at = canvas.panels[0], range(len(order))
    panel.barh(rows_at, recalls, height=0.65, color=SKY, label="also proposed by another source")
    panel.barh(rows_at, alone, height=0.65, color=BLUE, label="by this source alone")
    error = whiskers([curves[name].at_quota for name in order])
    panel.errorbar(recalls, rows_at, xerr=error, fmt="none", ecolor=BLACK, elinewidth=1.2, capsize=3)
    rows(panel, [f"{name} ({report.sources[name].quota})" for name in order])
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label(panel, "share of the chosen items that the source proposes", "source (quota per request)")
    canvas.figure.legend(loc="outside lower right", frameon=False, fontsize=10, ncols=2)
    together = report.sources["all of them"].recall
    most = max(order, key=lambda name: report.sources[name].alone)
    return canvas.finish(
        "sources",
        f"All sources together propose {together:.0%} of what users chose; {most} adds most that no other has",
        "The quota is the number of items that a source proposes.",
    )


def proposals(report: Report) -> Picture | None:
    """Draw the recall of each source as it proposes more."""
    curves = {name: curve for name, curve in report.details.sources.items() if len(curve.by_count) > 1}
    if not curves:
        return None
    order = sorted(curves, key=lambda name: -curves[name].at_quota.value)
    canvas = Canvas(3.6)
    panel = canvas.panels[0]
    for index, name in enumerate(order):
        counts = list(curves[name].by_count)
        panel.plot(
            counts,
            [curves[name].by_count[count] for count in counts],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5,
            label=plain(name),
        )
    panel.set_xscale("log")
    most = max(count for curve in curves.values() for count in curve.by_count)
    ticks = [cut for cut in CUTS if cut <= most]
    panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.grid(axis="y", color="#E5E5E5")
    label(panel, "proposals of the source", "share of the chosen items")
    canvas.figure.legend(loc="outside right center", frameon=False, fontsize=10)
    return canvas.finish(
        "proposals",
        "Would larger quotas find more? Recall of each source by its number of proposals",
        "Each line ends at the source's quota. A line that still climbs there would find more with a larger quota.",
        footer="",
    )


def new_items(report: Report) -> Picture | None:
    """Draw which share of lists and of choices the items without events have, by age."""
    ages = report.details.ages
    if not ages or not report.new_items[ALL].targets:
        return None
    names = [name for name in ages if name != ALL] + [ALL]
    canvas = Canvas(2.8)
    panel = canvas.panels[0]
    _pairs(panel, [ages[name] for name in names])
    panel.set_xticks(range(len(names)), [name.replace(", or unknown", ",\nor unknown") for name in names])
    label(panel, "time since the item came to exist, at the request", "share")
    listed, chosen = ages[ALL].recommended, ages[ALL].chosen
    verdict = "about as often as" if listed.low <= chosen.high and chosen.low <= listed.high else (
        "less often than" if listed.value < chosen.value else "more often than"
    )  # fmt: skip
    every = report.new_items[ALL]
    return canvas.finish(
        "new_items",
        f"Items without any event are recommended {verdict} users choose them",
        f"Of the {every.targets:,} chosen items without events, {every.found:,} were in the first 10 of their list.",
    )


def popularity(report: Report) -> Picture | None:
    """Draw how popular the recommended items are, against the chosen ones."""
    shares = report.details.popularity
    if len(shares) < 2:
        return None
    canvas = Canvas(3.4)
    panel = canvas.panels[0]
    _pairs(panel, list(shares.values()))
    panel.set_xticks(range(len(shares)), [name.replace("–", "–\n").replace(NO_EVENT, "no\nevent") for name in shares])
    label(panel, "items by their events in what was fitted: the most popular tenth first", "share")
    top = next(iter(shares.values()))
    return canvas.finish(
        "popularity",
        f"The most popular tenth of the items has {top.recommended.value:.0%} of the lists and {top.chosen.value:.0%} of the choices",
        "Where blue is above orange, lists lean more to such items than users do.",
    )


def _pairs(panel: Axes, shares: list[Shares]) -> None:
    """Draw recommended and chosen shares side by side."""
    kinds: tuple[tuple[float, str, str, str], ...] = (
        (-0.2, BLUE, "recommended (first 10 positions of all lists)", ""), (0.2, ORANGE, "chosen by users", "//"),
    )  # fmt: skip
    for shift, colour, name, hatch in kinds:
        intervals = [part.recommended if colour == BLUE else part.chosen for part in shares]
        where, heights = [index + shift for index in range(len(shares))], [part.value for part in intervals]
        panel.bar(where, heights, 0.38, color=colour, label=name, hatch=hatch, edgecolor="white", linewidth=0)
        panel.errorbar(where, heights, yerr=whiskers(intervals), fmt="none", ecolor=BLACK, elinewidth=1.2, capsize=3)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xlim(-0.6, len(shares) - 0.4)
    panel.legend(frameon=False, fontsize=10)


def calibration(report: Report) -> Picture | None:
    """Draw observed against predicted rates of both heads."""
    heads = {name: bins for name, bins in report.details.calibration.items() if bins}
    if not heads:
        return None
    canvas = Canvas(3.3, len(heads))
    for panel, (name, bins) in zip(canvas.panels, heads.items(), strict=True):
        _reliability(panel, name, bins)
    errors = [f"{100 * report.metrics[f'{name}_calibration_error'].value:.1f} for a {name}" for name in heads]
    return canvas.finish(
        "calibration",
        f"Predicted probabilities are off by {' and '.join(errors)}, in percentage points on average",
        "Each point is a tenth of the items that were shown; on the dashed line predictions are right.",
    )


def _reliability(panel: Axes, name: str, bins: list[CalibrationBin]) -> None:
    predicted, observed = [part.predicted for part in bins], [part.observed for part in bins]
    greatest = max([*predicted, *(part.high for part in observed)]) * 1.05
    panel.plot([0, greatest], [0, greatest], color=GREY, linestyle="--", linewidth=1)
    panel.errorbar(
        predicted,
        [part.value for part in observed],
        yerr=whiskers(observed),
        fmt="o",
        color=BLUE,
        elinewidth=1.5,
        markersize=5,
    )
    panel.set_xlim(0, greatest)
    panel.set_ylim(0, greatest)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1))
    label(panel, f"predicted probability of a {name}", f"observed rate of a {name}")


def importance(report: Report) -> Picture | None:
    """Draw what the ranker loses without each feature."""
    losses = report.details.importance
    if not losses:
        return None
    order = sorted(losses, key=lambda name: -losses[name].value)[:MOST_FEATURES]
    sure = losses[order[0]].low > 0
    canvas = Canvas(0.8 + ROW_IN * len(order))
    panel = canvas.panels[0]
    panel.axvline(0, color=BLACK, linewidth=1)
    for row, name in enumerate(order):
        point(panel, row, losses[name], BLUE if losses[name].low > 0 else PALE)
    rows(panel, [in_words(name) for name in order])
    label(panel, "loss of ndcg@10 when shuffled (pale: perhaps none)")
    return canvas.finish(
        "importance",
        f"The ranking leans most on: {in_words(order[0])}"
        if sure
        else "No feature alone makes a sure difference to the ranking",
        f"Each feature in turn is shuffled among the best {POOL} candidates of requests with a chosen item among them. Features that "
        "say the same stand in for each other, so a small loss does not mean that a feature is useless.",
    )


def catalogue(report: Report) -> Picture | None:
    """Draw the items as the model sees them, by category."""
    plane = report.details.catalogue
    counts = Counter(name for name in plane.categories if name) if plane else Counter()
    if plane is None or len(counts) < 2:
        return None
    largest = [name for name, _ in counts.most_common(MOST_CATEGORIES)]
    canvas = Canvas(4.2)
    panel = canvas.panels[0]
    for name in (*largest, ""):
        kept = [(own == name) if name else own not in largest for own in plane.categories]
        if any(kept):
            index = largest.index(name) if name else 0
            x, y = plane.points[kept].T
            panel.scatter(
                x,
                y,
                s=16,
                alpha=0.75,
                linewidths=0,
                color=COLOURS[index] if name else PALE,
                marker=MARKERS[index] if name else ".",
                label=f"{plain(name) or 'all others'} ({sum(kept):,})",
            )
    panel.set_xticks([])
    panel.set_yticks([])
    label(panel, "direction in which vectors differ most", "second direction")
    canvas.figure.legend(
        loc="outside right center", title="category (items)", frameon=False, fontsize=10, markerscale=1.8
    )
    return canvas.finish(
        "catalogue",
        f"The catalogue as the model sees it: {len(plane.categories):,} items, near where their vectors are similar",
        f"The plane keeps {plane.kept:.0%} of how the vectors differ; items apart here are apart, items near here may still differ.",
        footer="",
    )


def learning(fits: Mapping[str, Epochs]) -> Picture | None:
    """Draw loss and validated ndcg@10 by epoch."""
    chosen, served = fits.get(CHOSEN, []), fits.get(SERVED, [])
    validated = [epoch for epoch in chosen if NDCG in epoch]
    if not chosen and not served:
        return None
    canvas = Canvas(3.0, 2 if validated else 1)
    if validated:
        _validation(canvas.panels[0], validated)
    losses = canvas.panels[-1]
    frozen, tuned = _by_tuning(chosen)
    for name, epochs, colour, marker, line in (
        ("choosing the epochs", frozen, BLUE, "o", "-"),
        ("with fine-tuned text encoder", tuned, ORANGE, "s", "-"),
        ("fit that is served", served, BLACK, "^", "--"),
    ):
        if epochs:
            _line(losses, epochs, "loss", colour, marker, line, name)
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(losses, "epoch", "training loss")
    canvas.figure.legend(loc="outside lower left", frameon=False, fontsize=10, ncols=3)
    best = max(validated, key=lambda epoch: epoch[NDCG]) if validated else None
    title = f"Epoch {best['epoch']:.0f} was best on valid, and its weights were kept" if best else "Loss by epoch"
    return canvas.finish(
        "learning",
        title,
        "ndcg@10 is that of the interest model alone, without the ranker. Fine-tuning of the text encoder begins at the best epoch "
        "before it (dotted).",
        footer="",
    )


def _validation(panel: Axes, epochs: Epochs) -> None:
    """Draw ndcg@10 on valid, and mark the best epoch."""
    best = max(epochs, key=lambda epoch: epoch[NDCG])
    frozen, tuned = _by_tuning(epochs)
    if tuned and frozen:
        start = max(frozen, key=lambda epoch: epoch[NDCG])
        panel.plot([start["epoch"], tuned[0]["epoch"]], [start[NDCG], tuned[0][NDCG]], color=ORANGE, linestyle=":")
    for part, colour, marker in ((frozen, BLUE, "o"), (tuned, ORANGE, "s")):
        _line(panel, part, NDCG, colour, marker)
    panel.plot(best["epoch"], best[NDCG], "o", markersize=15, fillstyle="none", color=BLACK)
    panel.annotate(
        "kept", (best["epoch"], best[NDCG]), textcoords="offset points", xytext=(0, 12), ha="center", fontsize=10
    )
    panel.margins(y=0.25)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(panel, "epoch", "ndcg@10 on valid")


def _line(
    panel: Axes, epochs: Epochs, figure: str, colour: str, marker: str, line: str = "-", name: str | None = None
) -> None:
    x, y = [one["epoch"] for one in epochs], [one[figure] for one in epochs]
    panel.plot(x, y, color=colour, marker=marker, linestyle=line, markersize=6, label=name)


def _by_tuning(epochs: Epochs) -> tuple[Epochs, Epochs]:
    """Return the epochs with a frozen text encoder, and those that fine-tuned it."""
    return [one for one in epochs if not one.get("tuned")], [one for one in epochs if one.get("tuned")]


def forest(title: str, differences: Mapping[str, tuple[Interval, int]], first: str) -> Picture:
    """Draw the differences to the run `first` by name, each with its number of requests."""
    names = list(differences)
    canvas = Canvas(0.9 + ROW_IN * len(names))
    panel = canvas.panels[0]
    panel.axvline(0, color=BLACK, linewidth=1)
    for row, name in enumerate(names):
        interval, _ = differences[name]
        colour, marker = (BLUE, "D") if interval.low > 0 else (ORANGE, "s") if interval.high < 0 else (GREY, "o")
        point(panel, row, interval, colour, marker)
    rows(panel, [f"{name} ({differences[name][1]:,})" for name in names])
    reach = max(max(-interval.low, interval.high) for interval, _ in differences.values()) * 1.05 or 1.0
    panel.set_xlim(-reach, reach)
    panel.xaxis.set_major_locator(MaxNLocator(6))
    label(panel, f"← worse     difference to {plain(first)}     better →", "figure (requests)")
    return canvas.finish(
        "differences",
        title,
        "Blue diamonds: better, orange squares: worse, grey: the interval reaches 0.",
        footer="Error bars are 95 % intervals, wider for the number of differences that are looked at.",
    )
