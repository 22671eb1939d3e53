"""The suite's report as Markdown: a page for each data set, and one that puts their first tables together.

In: `Results` by `--fit-on`. Out: the files of docs/quality. A page that is not written anew stays as it was measured.
"""

import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.suite.measure import OURS, TYPED
from benchmarks.suite.results import Results, verdict
from benchmarks.suite.sets import PUBLISHED, SETS, best_published
from recsys.atomic import atomic_file
from recsys.metrics import Interval
from training.plan import FitOn

INTRODUCTION = f"""# Quality

Written by `make benchmark-suite`, which measures one data set after the other, each with the code of its day, on
{os.cpu_count()} cores ({platform.machine()}) without a GPU. Split `test`, full ranking, default configuration, 95 % bootstrap intervals over users (of the mean over
seeds). Choices are made on `valid` or before it; `test` is used here alone. Baselines keep or leave out seen items, whichever is
better for them on `test`. Peers are models of other libraries, tuned on `valid` with the same budget each (`make benchmark-peers`).
The best of both is the one with the highest ndcg@10 on `test`. *Win*: the whole interval of the difference to it, paired over users,
is above 0; *loss*: below 0. Published rows have no intervals. Minutes are of each training, some of one core beside other work ([performance](../performance.md) has quiet ones), GiB of all its processes together.
What each part of the interest model is worth is in [ablations](../ablations.md), what updates are worth beside trainings in [updates](updates.md)."""

SUMMARY = (
    "data, `--fit-on`", "measured", "requests", "hr@10", "ndcg@10", "best baseline or peer", "its ndcg@10", "difference", "verdict",
    "best published, hr@10 / ndcg@10", "hr@10 of cold items", "of known ones", "cold / known", "ndcg@10 of the interest model alone",
    "minutes", "GiB",
)  # fmt: skip


def write(folder: Path, name: str, results: Mapping[FitOn, Results]) -> None:
    """Write the page of a data set into `folder`, and README.md over all pages there."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / f"{name}.md", page(name, results))
    _write_text(folder / "README.md", overview(folder))


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(name: str, results: Mapping[FitOn, Results]) -> str:
    """Return the page of a data set."""
    lines = [f"# {name}", "", "What is measured, and how, is in [Quality](README.md).", ""]
    lines += table(SUMMARY, [summary(name, fit_on, each) for fit_on, each in results.items()])
    for fit_on, each in results.items():
        lines += ["", f"## `--fit-on {fit_on}`", "", f"Seeds: {len(each.seeds)}.", "", *section(name, each)]
    return "\n".join(lines) + "\n"


def overview(folder: Path) -> str:
    """Return the table of all data sets that have a page in `folder`, from the rows there."""
    texts = [path.read_text(encoding="utf-8") for name in SETS if (path := folder / f"{name}.md").exists()]
    rows = [cells_of(line) for text in texts for line in text.splitlines() if line.startswith("| [")]
    verdicts = Counter(row[SUMMARY.index("verdict")] for row in rows)
    counted = f"Wins / ties / losses: {verdicts['win']} / {verdicts['tie']} / {verdicts['loss']}"
    return "\n".join([INTRODUCTION, "", *table(SUMMARY, rows), "", counted]) + "\n"


def summary(name: str, fit_on: str, results: Results) -> list[str]:
    """Return the cells of a data set in the table at the top."""
    gap, published = results.above(results.best_other), best_published(name)
    cold, known = (results.interval(OURS, "hr@10", keep) for keep in (results.shared["cold"], ~results.shared["cold"]))
    share = f"{cold.value / known.value:.2f}" if cold and known and known.value else ""
    return [
        f"[{name}]({name}.md), {fit_on}",
        ", ".join(sorted({run["date"] for run in results.about})),
        f"{len(results.shared['users']):,}",
        show(results.interval(OURS, "hr@10")),
        f"**{show(results.interval(OURS, 'ndcg@10'))}**",
        results.best_other,
        show(results.interval(results.best_other, "ndcg@10")),
        show(gap),
        verdict(gap),
        f"{published[0]} {published[1]:.4f} / {published[2]:.4f}" if published else "",
        show(cold),
        show(known),
        share,
        show(results.interest),
        ", ".join(f"{run['minutes']:.1f}" for run in results.about),
        f"{max(run['gib'] for run in results.about):.1f}",
    ]


def section(name: str, results: Results) -> list[str]:
    """Return the lines on one data set: every row, kinds of targets, sources."""
    notes = [f"{row} left out: {reason}" for row, reason in results.skipped.items()]
    lines = [line for note in (SETS[name].note, *notes) if note for line in (note, "")]
    lines += [*rows_table(name, results), "", *segments_table(results), ""]
    lines += ["The typed sentence is the title of the user's last item; the whole history is hidden.", ""]
    if results.shown:
        figures = ", ".join(f"`{figure}` {show(interval)}" for figure, interval in results.shown.items())
        lines += [f"Order of what users were shown: {figures}.", ""]
    return lines + sources_table(results)


def rows_table(name: str, results: Results) -> list[str]:
    """Return the table of all rows, published ones among them, by ndcg@10."""
    rows = []
    for row in (row for row in results.rows if row != TYPED):
        hits, gains = (results.interval(row, metric) for metric in ("hr@10", "ndcg@10"))
        assert gains is not None
        each = ", ".join(f"{value:.4f}" for value in results.by_seed(row))
        label, gap = (f"**{row}**", "") if row == OURS else (row, show(results.above(row)))
        rows.append((gains.value, [label, show(hits), show(gains), each, gap]))
    for source, models in PUBLISHED.get(name, {}).items():
        rows += [
            (gain, [f"{model} ({source})", f"{hit:.4f}", f"{gain:.4f}", "", ""])
            for model, (hit, gain) in models.items()
        ]
    head = ("", "hr@10", "ndcg@10", "ndcg@10 by seed", "ndcg@10 of this engine above it")
    return table(head, [cells for _, cells in sorted(rows, key=lambda row: -row[0])])


def segments_table(results: Results) -> list[str]:
    """Return the table of kinds of targets and of users."""
    rows = []
    for name, (row, keep) in results.segments.items():
        cells = [show(results.interval(row, metric, keep)) for metric in ("hr@10", "ndcg@10")]
        rows.append([name, f"{keep.sum():,}", *cells])
    return table(("segment", "targets", "hr@10", "ndcg@10"), rows)


def sources_table(results: Results) -> list[str]:
    """Return the table of candidate sources."""
    head = ("candidate source (seed 0)", "quota", "recall at quota", "proposed by no other")
    sources = results.about[0]["sources"].items()
    return table(head, [[name, row["quota"], f"{row['recall']:.4f}", f"{row['alone']:.4f}"] for name, row in sources])


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def cells_of(line: str) -> list[str]:
    """Return the cells of a row that `table` made."""
    return line.removeprefix("| ").removesuffix(" |").split(" | ")


def show(interval: Interval | None) -> str:
    """Return a value with its interval, nothing for None."""
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]" if interval else ""
