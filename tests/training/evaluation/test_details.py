"""What pictures show is counted right, on lists with known answers; a feature matters where the ranker reads it alone."""

from dataclasses import replace

import numpy as np
import pytest

from features.histories import EventLog
from recsys.arrays import Floats, Ints
from recsys.models.rankers.trees import LightGbmRanker
from serving.recommender import Recommender, RecommendOptions
from tests.worlds import DAY, START, log_of, tiny_recommender
from training.evaluation.details import (
    FEWEST,
    NO_EVENT,
    age_shares,
    calibration_bins,
    catalogue_map,
    feature_importance,
    popularity_shares,
    source_curves,
)
from training.evaluation.evaluate import Evaluation, evaluate
from training.evaluation.new_items import ALL, ages_of

ITEMS = 22


class OneFeature(LightGbmRanker):
    """Ranks by one dense feature."""

    def __init__(self, column: int) -> None:
        super().__init__([], [])
        self.column = column

    def log_odds(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the feature for both heads."""
        return np.repeat(dense[:, :, self.column, None], 2, axis=2)

    def contributions(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the feature where it is, and nothing elsewhere."""
        only = np.zeros((*dense.shape[:2], dense.shape[2] + categorical.shape[2]), np.float32)
        only[:, :, self.column] = dense[:, :, self.column]
        return only


def evaluation_of(chosen: list[int]) -> Evaluation:
    """Return requests of as many users, one target each."""
    rows = [(f"u{user}", f"i{item}", "click", 1) for user, item in enumerate(chosen)]
    return Evaluation.of(log_of(rows, ITEMS, "test"), "test", 3)


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, EventLog]:
    """Return a small recommender and its log, the latest events of which are test."""
    recommender, log, _ = tiny_recommender(tmp_path_factory.mktemp("tiny"))
    late = log.times >= np.quantile(log.times, 0.7)
    return recommender, replace(log, segments=np.where(late, 3, log.segments).astype(log.segments.dtype))


def test_recall_grows_with_the_proposals_up_to_the_quota() -> None:
    """Of four targets one is proposed first, one third, and two are not."""
    requests = evaluation_of([0, 1, 2, 3]).requests
    proposals = np.array([[0, 9, 9], [9, 9, 1], [9, 8, 7], [9, 8, 7]])
    curve = source_curves({"interest": proposals}, requests)["interest"]
    assert curve.by_count == {1: 0.25, 2: 0.25, 3: 0.5} and curve.at_quota.value == 0.5


def test_popularity_counts_positions_and_choices_by_tenth() -> None:
    """Items 0 and 1 are the most popular tenth of twenty; 20 and 21 have no event."""
    counts = np.append(np.arange(20, 0, -1), [0, 0])
    requests = evaluation_of([0, 0, 21, 19]).requests
    lists = np.tile([0, 1, 20, -1], (4, 1))
    shares = popularity_shares(lists, requests, counts)
    assert len(shares) == 11
    top, last, none = shares["0–10 %"], shares["90–100 %"], shares[NO_EVENT]
    assert top.recommended.value == pytest.approx(2 / 3) and top.chosen.value == 0.5
    assert (last.recommended.value, last.chosen.value) == (0, 0.25)
    assert none.recommended.value == pytest.approx(1 / 3) and none.chosen.value == 0.25


def test_of_empty_lists_there_are_no_shares() -> None:
    """As where a user has seen the whole catalogue."""
    requests, none = evaluation_of([0, 1]).requests, np.full((2, 3), -1)
    assert popularity_shares(none, requests, np.ones(ITEMS, np.int64)) == {}
    assert age_shares(ages_of(none, requests, np.zeros(ITEMS, np.int64), None), requests) == {}


def test_ages_have_the_shares_of_the_report_with_intervals() -> None:
    """Of items without events only."""
    requests = evaluation_of([20, 1, 2, 3]).requests
    counts, since = np.append(np.full(20, 5), [0, 0]), np.full(ITEMS, START)
    shares = age_shares(ages_of(np.tile([20, 1], (4, 1)), requests, counts, since - DAY), requests)
    assert shares[ALL].recommended.value == 0.5 and shares[ALL].chosen.value == 0.25
    assert shares["less than 7 days"] == shares[ALL] and shares["7 to 29 days"].chosen.value == 0
    assert shares[ALL].chosen.low < 0.25 < shares[ALL].chosen.high


def test_calibration_finds_the_level_that_was_planted_and_needs_some_positives() -> None:
    """Rates are twice the predictions."""
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.05, 0.4, 20_000).astype(np.float32)
    labels = rng.random(len(predicted)) < 2 * predicted
    bins = calibration_bins(predicted, labels, np.arange(len(predicted)) // 10)
    assert len(bins) == 10
    for part in bins:
        assert part.observed.low - 0.02 < 2 * part.predicted < part.observed.high + 0.02
    few = np.arange(len(predicted)) < FEWEST - 1
    assert calibration_bins(predicted, few, np.arange(len(predicted))) == []


def test_only_the_feature_that_the_ranker_reads_matters(tiny_world: tuple[Recommender, EventLog]) -> None:
    """Shuffling any other changes nothing at all; the two forms of a source's score are one feature."""
    recommender, log = tiny_world
    reads_one = replace(recommender, ranker=OneFeature(recommender.retriever.features.names.index("price")))
    evaluation = Evaluation.of(log, "test", recommender.retriever.config.interest.max_history)
    ranking = reads_one.recommend(evaluation.histories, RecommendOptions(20))
    count = len(evaluation.requests)
    users_take_the_first = replace(
        evaluation.requests,
        targets=ranking.items[:, 0].astype(np.int32),
        types=np.zeros(count, np.int8),
        offsets=np.arange(count + 1),
    )
    importance = feature_importance(reads_one, ranking, users_take_the_first, evaluation.histories)
    assert importance["price"].low > 0.1
    assert all(loss.value == 0 for name, loss in importance.items() if name != "price")
    assert "source taste" in importance and not [name for name in importance if name.startswith(("relative_", "rank_"))]


def test_users_are_shown_with_their_past_their_choices_and_what_spoke_for_an_item(
    tiny_world: tuple[Recommender, EventLog],
) -> None:
    """A feature that spoke against it is no reason; a choice in the list is marked."""
    recommender, log = tiny_world
    ranker = OneFeature(recommender.retriever.features.names.index("seen"))
    report = evaluate(replace(recommender, ranker=ranker), log, "test", dataset="tiny", counts=np.ones(40, np.int64))
    examples = report.details.examples
    assert 0 < len(examples) <= 10
    titles = set(recommender.retriever.items["title"])
    for example in examples:
        assert {title for _, title in example.history} <= titles and example.history[0][0] == "click"
        top = [title for title, position in example.chosen if position and position <= len(example.suggestions)]
        assert sum(suggestion.chosen for suggestion in example.suggestions) == len(top)
        assert all(set(suggestion.features) <= {"seen"} for suggestion in example.suggestions)
        assert example.suggestions[0].features == ["seen"] and example.suggestions[0].nearest in titles


def test_the_map_has_a_point_for_every_item(tiny_world: tuple[Recommender, EventLog]) -> None:
    """With what the plane keeps of the vectors; items without a category have an empty one."""
    recommender, _ = tiny_world
    found = catalogue_map(recommender.retriever)
    assert found and found.points.shape == (40, 2) and found.categories == [""] * 40 and 0 < found.kept <= 1
