"""Reports and comparisons as one HTML page each, which needs no network: pictures are inside, and all text is escaped.

In: a `Report` or `Comparison`s, with their pictures. Out: HTML.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys.atomic import atomic_file
from recsys.metrics import Interval
from recsys.shown import templates_of
from training.evaluation.compare import MAIN, Comparison, Difference, Evaluated
from training.evaluation.report import Report
from training.pictures.canvas import Picture
from training.pictures.charts import forest
from training.pictures.words import in_words

PAGE = "report.html"
"""The page's name among the files of a run."""
TEMPLATES = templates_of("training.pictures")


def report_page(report: Report, drawn: Sequence[Picture], model: str) -> str:
    """Return the report of `model` as a page, with the pictures that were `drawn`."""
    best = min(report.differences, key=lambda name: report.differences[name].value) if report.differences else None
    return TEMPLATES.get_template("report.html").render(
        report=report,
        pictures={picture.name: picture for picture in drawn},
        model=model,
        best=best,
        baselines=dict(sorted(report.baselines.items(), key=lambda row: -row[1][MAIN].value)),
    )


def comparison_page(first: Evaluated, comparisons: Sequence[Comparison]) -> str:
    """Return how each run compares with the `first` as a page, with a picture each."""
    drawn = [_forest(first, one) for one in comparisons]
    return TEMPLATES.get_template("comparison.html").render(
        first=first, parts=[(one, named(one), picture) for one, picture in zip(comparisons, drawn, strict=True)]
    )


def named(one: Comparison) -> dict[str, Difference]:
    """Return all differences of a comparison by name."""
    return one.metrics | {f"{MAIN}, {name}": part for name, part in one.segments.items()}


def _forest(first: Evaluated, one: Comparison) -> Picture:
    main = one.metrics[MAIN]
    verdict = ("worse" if main.worse else "better") if main.real else "neither better nor worse"
    return forest(
        f"{one.label} is {verdict} than {first.label} in {MAIN}",
        {name: (part.interval, part.requests) for name, part in named(one).items()},
        first.label,
    )


def as_files(page: str | None, drawn: Sequence[Picture]) -> Mapping[str, bytes]:
    """Return a page and its pictures by the names that they have among the files of a run."""
    files = {f"pictures/{picture.name}.png": picture.png for picture in drawn}
    return files if page is None else files | {PAGE: page.encode()}


def write_page(page: str, path: Path) -> None:
    """Write a page, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _interval(interval: Interval, sign: str = "") -> str:
    """Return a value with its interval, where it has one."""
    value = f"{interval.value:{sign}.4f}"
    return value if interval.low == interval.high else f"{value} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


TEMPLATES.filters |= {
    "interval": _interval,
    "base64": lambda png: b64encode(png).decode(),
    "words": in_words,
}
