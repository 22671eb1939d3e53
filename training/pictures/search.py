"""The picture of a search: its trials in their order, and what decides between them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.pictures.canvas import BLACK, BLUE, GREY, ORANGE, Canvas, Picture, label, rows

MOST_KEYS = 10


def search_picture(trials: Sequence[tuple[float, bool]], verdict: str, importance: Mapping[str, float]) -> Picture:
    """Draw the metric of each trial, and whether it was measured to its end; the first one is that of the default.

    `importance` are shares by key; there is no panel of them where it is empty.
    """
    canvas = Canvas(3.2, panels=2 if importance else 1)
    history = canvas.panels[0]
    metrics, whole = np.array([metric for metric, _ in trials]), np.array([finished for _, finished in trials])
    numbers = np.arange(len(trials))
    history.axhline(metrics[0], color=ORANGE, linewidth=1.5)
    history.step(numbers, np.maximum.accumulate(np.where(whole, metrics, 0.0)), where="post", color=BLUE, linewidth=1.5)
    history.plot(numbers[whole], metrics[whole], "o", color=BLUE, markersize=6)
    history.plot(numbers[~whole], metrics[~whole], "x", color=GREY, markersize=6)
    history.plot(0, metrics[0], "s", color=ORANGE, markersize=8)
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(history, "trial", "ndcg@10 on valid")
    if importance:
        shares = canvas.panels[1]
        names = sorted(importance, key=lambda key: -importance[key])[:MOST_KEYS]
        shares.barh(range(len(names)), [importance[name] for name in names], color=BLUE, height=0.6)
        rows(shares, names)
        shares.tick_params(labelsize=8, colors=BLACK)
        shares.xaxis.set_major_formatter(PercentFormatter(1.0))
        label(shares, "share of the differences")
    return canvas.finish(
        "search",
        verdict[0].upper() + verdict[1:],
        "Orange is the configuration that the search began with, the line the best until then; crosses were stopped early. "
        "The shares are those of the differences between trials that each key accounts for, by a model of few trials.",
        footer="" if len(trials) > 1 else "One trial alone.",
    )
