"""The taste model learns what users like of texts, and says it of items that nobody has touched."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.histories import EARLY, LATE
from recsys.arrays import Floats, Ints
from recsys.config import Config, TasteConfig
from recsys.events import DEFAULT_EVENT_WEIGHTS
from recsys.models.taste import SegmentVectors, TasteModel, same_category
from tests.worlds import DAY, START, log_of
from training.taste.data import prepare_taste
from training.taste.fit import TasteData, fit_taste

ITEMS, WIDTH = 48, 24
UNSEEN = {"warm": 44, "cool": 45, "left": 46}
"""Items without events, by the clause that they have."""

SMALL = TasteConfig(width=8, epochs=16, batch=64, negatives=64)
ONE_CATEGORY = np.ones(ITEMS, np.int64)
PAST = {"warm": [0, 2, 4], "cool": [1, 3, 5]}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep steps this small on one thread: several would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def texts() -> SegmentVectors:
    """Return items of a title, the clause that matters, one about delivery and one about the guarantee that goes with it.

    Even items are warm, odd ones cool; the last two are warm, and refurbished instead of guaranteed. Titles are random.
    The histories' items and the cool unseen one are delivered alike, the warm unseen one is not.
    """
    rng = np.random.default_rng(0)
    clauses, services = unit(rng.normal(size=(2, WIDTH))), unit(rng.normal(size=(2, 5, WIDTH)))
    refurbished, titles = unit(rng.normal(size=WIDTH)), unit(rng.normal(size=(ITEMS, WIDTH)))
    service = rng.integers(5, size=ITEMS)
    service[[*PAST["warm"], *PAST["cool"], UNSEEN["cool"]]] = 0
    service[[UNSEEN["warm"], UNSEEN["left"], UNSEEN["left"] + 1]] = 1
    kinds = np.where(np.arange(ITEMS) < UNSEEN["left"], np.arange(ITEMS) % 2, 0)
    parts = np.stack([titles, clauses[kinds], *services[:, service]], 1)  # [N, 4, H]
    parts[UNSEEN["left"] :, 3] = refurbished
    vectors = np.concatenate([parts.reshape(-1, WIDTH), unit(parts.sum(1))])
    rows = np.concatenate([np.arange(4 * ITEMS).reshape(ITEMS, 4), 4 * ITEMS + np.arange(ITEMS)[:, None]], 1)
    return SegmentVectors(vectors, rows.ravel(), np.tile([0, 3, 3, 3, 4], ITEMS), 5 * np.arange(ITEMS + 1))


def world(since: int | None = None) -> TasteData:
    """Return the data of users each of whom likes either warm or cool things."""
    rng, rows = np.random.default_rng(1), []
    for user in range(60):
        liked = rng.choice(np.arange(user % 2, 44, 2), 6, replace=False)
        rows += [(f"u{user:02}", f"i{item}", "click", day) for day, item in enumerate(liked)]
    log = log_of(rows, ITEMS)
    return prepare_taste(log, (EARLY, LATE), texts(), ONE_CATEGORY, DEFAULT_EVENT_WEIGHTS, Config(), since)


@torch.no_grad()
def scores(model: TasteModel, history: list[int], candidates: list[int]) -> list[float]:
    """Return the relevance of `candidates`, as if none had had events."""
    past = np.array([history], np.int32)
    vectors = model.item_vectors(texts(), np.arange(ITEMS))
    similarity = (vectors[candidates] @ vectors[history].T)[None]
    same = torch.from_numpy(same_category(ONE_CATEGORY[past], ONE_CATEGORY[candidates]))
    weights = model.event_weights(torch.ones(1, len(history), dtype=torch.bool))
    relevance: list[float] = model.relevance(similarity, same, weights, torch.zeros(len(candidates)))[0].tolist()
    return relevance


def test_pairs_have_what_came_before_each_target_and_events_count_once() -> None:
    """First events have no history and so teach nothing; items without events are no negatives."""
    data = world()
    assert len(data.targets) == 60 * 5 and (data.past >= 0).any(1).all()
    assert data.past.shape[0] == len(data.weights) == len(data.impressions)
    assert data.counts.sum() == 60 * 6 and not data.counts[44:].any()
    assert set(data.drawn) == set(np.flatnonzero(data.counts))
    for past, target in zip(data.past, data.targets, strict=True):
        assert (past[past >= 0] % 2 == target % 2).all() and target not in past


def test_an_unseen_item_with_the_clause_that_a_user_likes_is_ranked_first() -> None:
    """Nobody has touched it, and most of its text is about other things: the promise to new items."""
    candidates, untrained = [UNSEEN["warm"], UNSEEN["cool"]], TasteModel(WIDTH, SMALL.width)
    untrained.start_from(torch.from_numpy(texts().vectors))
    warm, cool = scores(untrained, PAST["warm"], candidates)
    assert cool > warm  # it is delivered as the items of the history were
    model = fit_taste(world(), SMALL, 0)
    warm, cool = scores(model, PAST["warm"], candidates)
    assert warm > cool + 1
    warm, cool = scores(model, PAST["cool"], candidates)
    assert cool > warm + 1


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    """To the bit."""
    data = world()
    one, again, other = (fit_taste(data, SMALL, seed).state_dict() for seed in (3, 3, 4))
    torch.testing.assert_close(again, one, rtol=0, atol=0)
    assert not torch.equal(other["projection.weight"], one["projection.weight"])


def test_an_update_keeps_the_weights_where_nothing_is_new_and_goes_on_from_them_where_something_is() -> None:
    """Its pairs are of the requests since, and as many others."""
    before = fit_taste(world(), SMALL, 0).state_dict()
    start = {name: tensor.clone() for name, tensor in before.items()}
    nothing, last_day = world(since=START + 5 * DAY), world(since=START + 4 * DAY)
    assert not len(nothing.targets) and 60 <= len(last_day.targets) <= 120
    torch.testing.assert_close(fit_taste(nothing, SMALL, 1, start=start).state_dict(), before, rtol=0, atol=0)
    after = fit_taste(last_day, SMALL.model_copy(update={"epochs": 1}), 1, start=start).state_dict()
    assert 0 < float((after["projection.weight"] - before["projection.weight"]).abs().max()) < 0.1
    torch.testing.assert_close(after["centre"], before["centre"], rtol=0, atol=0)


def test_items_that_were_shown_and_left_are_pushed_down() -> None:
    """They are never drawn, and chosen as often as others: only the impressions say that users do not want them."""
    data = replace(world(), counts=np.full(ITEMS, 8))
    shown = np.full((len(data.targets), 2), -1, np.int32)
    shown[:, 0] = UNSEEN["left"]
    margins = []
    for impressions in (np.empty((len(data.targets), 0), np.int32), shown):
        model = fit_taste(replace(data, impressions=impressions), SMALL.model_copy(update={"epochs": 60}), 0)
        wanted, left = scores(model, PAST["warm"], [UNSEEN["warm"], UNSEEN["left"] + 1])  # like the one that was left
        margins.append(wanted - left)
    assert margins[1] > margins[0] + 0.5 and margins[1] > 0


def test_a_new_item_is_worth_more_than_one_that_was_left_all_the_time() -> None:
    """Nobody could choose it yet, which a count of 0 does not say."""
    rows, rng = [], np.random.default_rng(0)
    for user, seldom in enumerate(range(16, 44)):
        chosen = [*rng.choice(16, 6, replace=False), seldom]
        rows += [(f"u{user:02}", f"i{item}", "click", day) for day, item in enumerate(chosen)]
    log = log_of(rows, ITEMS)
    data = prepare_taste(log, (EARLY, LATE), texts(), ONE_CATEGORY, DEFAULT_EVENT_WEIGHTS, Config())
    model = fit_taste(data, SMALL.model_copy(update={"epochs": 60}), 0)
    counts = torch.tensor([0.0, 1.0, 10.0])
    new, seldom, often = model.bias(counts, known=counts > 0).tolist()
    assert seldom + 0.5 < new < often


def test_a_log_without_requests_leaves_a_model_that_answers() -> None:
    """Too little to learn from is no error here."""
    targets, drawn = np.empty(0, np.int32), np.empty(0, np.int64)
    data = world()
    empty = replace(
        data, past=data.past[:0], targets=targets, weights=data.weights[:0], impressions=data.impressions[:0]
    )
    model = fit_taste(replace(empty, drawn=drawn, counts=np.zeros(ITEMS, np.int64)), SMALL, 0)
    assert np.isfinite(scores(model, PAST["warm"], [40, 41])).all()


@pytest.mark.parametrize("candidates", [np.array([1, 2, 3]), np.array([[1, 2, 3], [3, 2, 1]])])
def test_an_unknown_category_agrees_with_none(candidates: Ints) -> None:
    """Nor does padding."""
    category, past = np.array([0, 0, 1, 2]), np.array([[-1, 1, 2], [3, 0, 2]], np.int32)
    same = same_category(np.where(past >= 0, category[past], 0), category[candidates])
    for row in range(2):
        for column, item in enumerate(candidates if candidates.ndim == 1 else candidates[row]):
            for position, event in enumerate(past[row]):
                known = event >= 0 and category[event] > 0
                assert bool(same[row if len(same) > 1 else 0, column, position]) == (
                    known and category[item] == category[event]
                )
