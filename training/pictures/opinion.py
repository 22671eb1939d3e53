"""The picture of `recsys text monitor`: the most alarming series, day by day, beside what was usual."""

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from serving.text.opinion import HOUR_US, Watched
from serving.text.opinion_report import series_table
from training.pictures.canvas import BLUE, GREY, RED, Canvas, Picture, label, plain

MOST = 3
"""Panels."""
NAME = 22


def opinion_picture(watched: Watched, days: float) -> Picture:
    """Draw the share of negative texts of each day, what was usual, and the alarms; `days` are those that alarms are looked for in."""
    counts, rows = watched.counts, _rows(watched, days)
    canvas = Canvas(3.0, panels=len(rows), share_y=True)
    day = max(1, round(24 / counts.hours))
    starts = np.arange(0, counts.texts.shape[1], day)
    times = (counts.start + starts * counts.hours * HOUR_US).astype("datetime64[us]")
    for panel, row in zip(canvas.panels, rows, strict=True):
        texts, negative = (np.add.reduceat(part[row], starts) for part in (counts.texts, counts.negative))
        known = texts > 0
        panel.plot(times[known], negative[known] / texts[known], color=BLUE, linewidth=1.2, label="each day")
        panel.plot(times, watched.usual[row, starts], color=GREY, linewidth=1.5, label="usual")
        alarmed = np.add.reduceat(watched.alarms[row], starts) > 0
        at = np.flatnonzero(alarmed & known)
        panel.plot(times[at], negative[at] / texts[at], "o", color=RED, label="alarm")
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.tick_params(axis="x", labelsize=7)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        by, name = counts.series.row(row)
        label(panel, y="" if panel is not canvas.panels[0] else "negative", title=plain(f"{by} {name}", NAME))
    canvas.panels[0].legend(frameon=False, fontsize=8)
    count = watched.latest(days).height
    title = f"{count} alarm{'' if count == 1 else 's'} in the last {'day' if days == 1 else f'{days:g} days'}"
    return canvas.finish(
        "opinion",
        f"Share of negative texts: {title}",
        "The line is the share of each day, the grey one what the past says; a dot is a day with an alarm.",
        footer="The most alarming first.",
    )


def _rows(watched: Watched, days: float) -> list[int]:
    """Return the rows of the series that are drawn."""
    order = series_table(watched, days).head(MOST).select("by", "name").rows()
    known = {key: row for row, key in enumerate(watched.counts.series.rows())}
    return [known[key] for key in order]
