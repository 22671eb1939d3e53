"""The picture of a search: its trials in their order, and what decides between them."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.pictures.canvas import BLACK, BLUE, GREY, ORANGE, Canvas, Picture, label, rows

MOST_KEYS = 10
FOOTER_CHARACTERS = 110


def search_picture(
    trials: Sequence[tuple[float, bool]], default: int, title: str, verdict: str, importance: Mapping[str, float]
) -> Picture:
    """Draw the metric of each trial, and whether it was measured to its end; `default` is the one of the default.

    `importance` are shares by key; there is no panel of them where it is empty.
    """
    canvas = Canvas(3.2, panels=2 if importance else 1)
    _draw_history(canvas.panels[0], trials, default)
    if importance:
        _draw_importance(canvas.panels[1], importance)
    return canvas.finish(
        "search",
        title,
        "The line is the best until then; crosses were stopped early. The shares are those of the differences between trials that each key "
        "accounts for, by a model of few trials.",
        footer=fill(verdict[0].upper() + verdict[1:] + ".", FOOTER_CHARACTERS),
    )


def _draw_history(panel: Axes, trials: Sequence[tuple[float, bool]], default: int) -> None:
    metrics, whole = np.array([metric for metric, _ in trials]), np.array([finished for _, finished in trials])
    numbers = np.arange(len(trials))
    panel.axhline(metrics[default], color=ORANGE, linewidth=1.5)
    panel.step(numbers, np.maximum.accumulate(np.where(whole, metrics, 0.0)), where="post", color=BLUE, linewidth=1.5)
    panel.plot(numbers[whole], metrics[whole], "o", color=BLUE, markersize=6, label="a trial")
    if not whole.all():
        panel.plot(numbers[~whole], metrics[~whole], "x", color=GREY, markersize=6, label="stopped early")
    panel.plot(default, metrics[default], "s", color=ORANGE, markersize=8, label="the default")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(frameon=False, fontsize=9)
    label(panel, "trial", "ndcg@10 on valid")


def _draw_importance(panel: Axes, importance: Mapping[str, float]) -> None:
    names = sorted(importance, key=lambda key: -importance[key])[:MOST_KEYS]
    panel.barh(range(len(names)), [importance[name] for name in names], color=BLUE, height=0.6)
    rows(panel, names)
    panel.tick_params(labelsize=8, colors=BLACK)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    label(panel, "share of the differences")
