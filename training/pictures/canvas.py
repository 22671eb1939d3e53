"""How all pictures look: one size, one set of colours, a title that says what is to be seen, and PNG.

In: what a chart draws. Out: a `Picture`. The only module that imports matplotlib.

The colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart, but for their yellow.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recsys.metrics import Interval

BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK, GREY, PALE = "#222222", "#767676", "#BBBBBB"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

INTERVALS = "Error bars are 95 % intervals."
WIDTH_IN, DPI = 7.0, 160
TITLE_CHARACTERS, NAME_CHARACTERS = 62, 40


@dataclass(frozen=True)
class Picture:
    """A drawn chart."""

    name: str
    """Of its file, without `.png`."""
    title: str
    """What is to be seen."""
    reading: str
    """How to read it, in a sentence or two."""
    png: bytes


class Canvas:
    """A figure with its panels."""

    def __init__(self, height_in: float, panels: int = 1, share_y: bool = False) -> None:
        """`height_in` is that of the panels; the title comes on top."""
        self.figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasAgg(self.figure)
        self.panels: list[Axes] = list(self.figure.subplots(1, panels, squeeze=False, sharey=share_y)[0])
        for panel in self.panels:
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=10, colors=BLACK)

    def finish(self, name: str, title: str, reading: str, footer: str = INTERVALS) -> Picture:
        """Return the picture under its title and above its `footer`; `reading` stands beside it elsewhere."""
        self.figure.supxlabel(footer, x=0.01, ha="left", fontsize=9, color=GREY)
        wrapped = fill(title, TITLE_CHARACTERS)
        self.figure.suptitle(
            plain(wrapped, len(wrapped)), x=0.01, ha="left", fontsize=13, fontweight="bold", color=BLACK
        )
        width, height = self.figure.get_size_inches()
        self.figure.set_size_inches(width, height + 0.3 * (1 + wrapped.count("\n")))
        file = io.BytesIO()
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # a letter that the font lacks is drawn as a box
            self.figure.savefig(file, format="png", dpi=DPI, facecolor="white")
        return Picture(name, title, reading, file.getvalue())


def label(panel: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Name the axes of a panel, and what it shows where there are several."""
    panel.set_xlabel(x, fontsize=11)
    panel.set_ylabel(y, fontsize=11)
    panel.set_title(title, fontsize=11, loc="left")


def rows(panel: Axes, names: Sequence[str]) -> None:
    """Make room for one row per name, the first on top."""
    panel.set_yticks(range(len(names)), [plain(name) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    panel.set_axisbelow(True)


def point(panel: Axes, row: float, interval: Interval, colour: str, marker: str = "o") -> None:
    """Draw a value with its interval in a row."""
    panel.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    panel.plot(interval.value, row, marker, color=colour, markersize=7)


def whiskers(intervals: Sequence[Interval]) -> list[list[float]]:
    """Return how far the intervals reach below and above their values, as matplotlib's `xerr` and `yerr`."""
    below = [max(0.0, part.value - part.low) for part in intervals]
    return [below, [max(0.0, part.high - part.value) for part in intervals]]


def plain(text: str, most: int = NAME_CHARACTERS) -> str:
    """Return `text` with at most so many characters, as matplotlib draws it letter by letter: `$` begins no formula."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")
