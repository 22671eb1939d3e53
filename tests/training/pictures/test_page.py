"""The page needs no network, escapes all text, and holds every picture."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from recsys.metrics import Interval
from tests.training.pictures.reports import FITS, SCRIPT, around, full_report
from training.evaluation.compare import METRICS, Comparison, Difference, Evaluated
from training.pictures.charts import pictures
from training.pictures.page import as_files, comparison_page, report_page, write_page
from training.run_info import RunInfo


def run(version: str, name: str = "run") -> RunInfo:
    """Return a run with a version."""
    moment = datetime(2026, 11, 28, tzinfo=UTC)
    return RunInfo(version * 32, name, moment, "finished", SCRIPT, "f" * 16, {}, {}, (version,), ())


class Tags(HTMLParser):
    """Which tags a page opens, whether it closes them, and what it links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report() -> str:
    """Return the page of the full report."""
    return report_page(full_report(), pictures(full_report(), FITS), SCRIPT)


@pytest.fixture(scope="module")
def comparison() -> str:
    """Return the page of two runs, of which one is better and one differs in nothing."""
    better = dict.fromkeys(METRICS, Difference(120, around(0.05)))
    same = dict.fromkeys(METRICS, Difference(120, Interval(0.0, 0.0, 0.0)))
    two = Comparison(
        "version 2", run("2"), True, better, {"new items": Difference(40, around(-0.05))}, {"seed": ("0", SCRIPT)}
    )
    return comparison_page(
        Evaluated(run("1"), pl.DataFrame()), [two, Comparison("version 3", run("3"), True, same, {}, {})]
    )


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_is_whole_escaped_and_needs_no_network(name: str, request: pytest.FixtureRequest) -> None:
    """Tags close, no script is in it, and links are to the page itself or hold what they show."""
    page = request.getfixturevalue(name)
    tags = Tags(page)
    assert not tags.open and "script" not in tags.opened and "link" not in tags.opened
    assert tags.links and all(link.startswith(("#", "data:image/png;base64,")) for link in tags.links)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_report_has_every_picture_the_users_and_the_intervals(report: str) -> None:
    """And says in words why an item is in a list."""
    assert report.count("data:image/png;base64,") == len(pictures(full_report(), FITS)) == 10
    assert "0.2000 [0.1900, 0.2100]" in report and "difference +0.1000 [+0.0900, +0.1100]" in report
    assert "similarity to the latest event" in report and "position 1" in report and "not in the list" in report


def test_a_report_without_baselines_and_epochs_says_so() -> None:
    """In the place of their pictures."""
    from dataclasses import replace

    page = report_page(replace(full_report(), baselines={}, differences={}), [], "bundle")
    assert "Measured without baselines" in page and "No epochs are kept" in page and "<img" not in page


def test_a_comparison_says_what_is_better_worse_and_different(comparison: str) -> None:
    """With a picture for each run."""
    assert comparison.count("data:image/png;base64,") == 2
    assert "version 2 is better than version 1 in ndcg@10" in comparison
    assert "version 3 is neither better nor worse than version 1" in comparison
    assert '<td class="bad">worse</td>' in comparison and "No parameter differs" in comparison


def test_pages_are_written_whole_and_kept_with_their_pictures(report: str, tmp_path: Path) -> None:
    """Nothing else is left beside the file."""
    write_page(report, tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report
    files = as_files(report, pictures(full_report(), FITS))
    assert {"report.html", "pictures/baselines.png", "pictures/learning.png"} <= set(files)
