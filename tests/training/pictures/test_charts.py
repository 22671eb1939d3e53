"""Pictures say what was found, and what there is nothing of is not drawn."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features.ranking import NAMED
from recsys.metrics import Interval
from serving.retrieval.sources import SOURCES as ALL_SOURCES
from tests.training.pictures.reports import FITS, SCRIPT, around, full_report
from training.evaluation.details import CatalogueMap, Details, Shares, SourceCurve
from training.evaluation.new_items import ALL, NewItems
from training.evaluation.report import Report
from training.pictures import charts, words
from training.pictures.canvas import DPI, WIDTH_IN, Picture


@pytest.fixture(scope="module")
def drawn() -> list[Picture]:
    """Return all pictures of the full report."""
    return charts.pictures(full_report(), FITS)


def of(name: str, drawn: list[Picture]) -> Picture:
    """Return the picture of that name."""
    return next(picture for picture in drawn if picture.name == name)


def test_a_full_report_gives_every_picture_as_a_png_of_one_width(drawn: list[Picture]) -> None:
    """Titles with `$` and `<` are drawn as they are; nothing is left of a figure that is empty white."""
    assert [picture.name for picture in drawn] == [
        "baselines", "segments", "sources", "proposals", "new_items",
        "popularity", "calibration", "importance", "catalogue", "learning",
    ]  # fmt: skip
    for picture in drawn:
        image = Image.open(io.BytesIO(picture.png))
        assert image.format == "PNG" and image.width == WIDTH_IN * DPI, picture.name
        dark = sum(image.convert("L").histogram()[:128])
        assert dark > 0.005 * image.width * image.height, picture.name


def test_titles_say_what_was_found(drawn: list[Picture]) -> None:
    """Of quality, segments, sources, new items and epochs."""
    assert of("baselines", drawn).title == "This model is above every baseline"
    assert "best for “known items” and weakest for “cold items”" in of("segments", drawn).title
    assert "propose 50% of what users chose; interest adds most" in of("sources", drawn).title
    assert "less often than users choose them" in of("new_items", drawn).title
    assert "off by 2.0 for a click, in percentage points" in of("calibration", drawn).title
    assert of("learning", drawn).title == "Epoch 2 was best on valid, and its weights were kept"


def test_a_model_that_is_not_above_the_best_baseline_is_called_so() -> None:
    """Also where it is above another."""
    worse = replace(full_report(), differences={"ease": around(-0.01, 0.02), "bm25": around(0.1)})
    worse = replace(worse, baselines=worse.baselines | {"bm25": worse.baselines["ease"]})
    picture = charts.baselines(worse)
    assert picture and picture.title == "This model is not above the best baseline, ease"


def test_nothing_is_drawn_of_a_report_that_has_nothing() -> None:
    """No baselines, impressions, categories, epochs: no pictures, and no error."""
    empty = replace(full_report(), segments={}, differences={}, details=Details())
    assert charts.pictures(empty, {}) == []
    assert charts.pictures(None, {}) == []


@pytest.mark.parametrize(
    ("chart", "details"),
    [
        (charts.catalogue, {"catalogue": CatalogueMap(np.zeros((40, 2), np.float32), ["lamps", ""] * 20, 0.4)}),
        (charts.calibration, {"calibration": {"click": [], "purchase": []}}),
        (charts.importance, {"importance": {}}),
        (charts.popularity, {"popularity": {"none": Shares(around(1), around(1))}}),
        (charts.proposals, {"sources": {"interest": SourceCurve(around(0.5), {1: 0.5})}}),
    ],
)
def test_a_picture_that_would_say_nothing_is_left_out(
    chart: Callable[[Report], Picture | None], details: dict[str, Any]
) -> None:
    """One category, too few purchases, no candidates with a target, no events, quotas of one."""
    report = full_report()
    assert chart(report)
    assert chart(replace(report, details=replace(report.details, **details))) is None


def test_without_choices_of_new_items_their_exposure_is_left_out() -> None:
    """There is nothing to hold it against."""
    report = replace(full_report(), new_items={ALL: NewItems(0, 0, 0.0, 0.0)})
    assert charts.new_items(report) is None


def test_a_fit_that_was_not_validated_shows_its_loss_alone() -> None:
    """As after `--fit-on all` without epochs to choose."""
    learning = of("learning", charts.pictures(None, {"refit": FITS["refit"]}))
    assert learning.title == "Loss by epoch"


def test_a_forest_of_equal_runs_is_drawn() -> None:
    """Where every difference is exactly 0 the axis still has a width; names are drawn as they are."""
    picture = charts.forest(SCRIPT, {SCRIPT: (Interval(0, 0, 0), 10)}, SCRIPT)
    assert Image.open(io.BytesIO(picture.png)).width == WIDTH_IN * DPI


def test_every_feature_and_source_has_words() -> None:
    """A feature that is added needs some, too."""
    assert set(words.WORDS) >= set(NAMED)
    assert set(words.SOURCES) >= set(ALL_SOURCES)
    assert words.in_words("relative_taste") == words.in_words("rank_taste") == "words that the user likes (taste)"
    assert words.in_words("pages") == "pages"
    assert (words.in_words("context_device"), words.in_words("user_age")) == (
        "device of the request",
        "age of the user",
    )
