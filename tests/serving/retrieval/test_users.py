"""User vectors that are kept are those that the tower would compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from features.histories import Histories
from features.recent import RecentEvents
from recsys.arrays import Floats
from recsys.models.interest import HistoryBatch, recency_buckets
from recsys.models.user_tower_cpu import CpuUserTower
from serving.retrieval.retriever import Retriever
from serving.retrieval.users import UserVectors
from tests.worlds import tiny_recommender

DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """Return the retriever of a small recommender."""
    return tiny_recommender(tmp_path_factory.mktemp("tiny") / "encoder")[0].retriever


@pytest.fixture
def histories(retriever: Retriever) -> Histories:
    """Return histories of no, one and many events."""
    rng, length = np.random.default_rng(3), retriever.config.interest.max_history
    lengths = np.array([length, 1, 3, 0, length])
    known = np.arange(length) >= length - lengths[:, None]
    times = np.sort(rng.integers(0, 30 * DAY_US, known.shape), axis=1)
    return Histories(
        np.where(known, rng.integers(0, len(retriever.vectors), known.shape), -1).astype(np.int32),
        np.where(known, rng.integers(1, 7, known.shape), 0).astype(np.int8),
        np.where(known, times, 0),
        np.full(len(lengths), 30 * DAY_US),
    )


def by_the_tower(retriever: Retriever, histories: Histories) -> Floats:
    """Return the vectors of each history alone."""
    tower, vectors = retriever.model.eval().user_tower, []
    for row in range(len(histories)):
        one = histories.rows(slice(row, row + 1)).trimmed()
        items = torch.from_numpy(one.items).long()
        recency = recency_buckets(torch.from_numpy(one.times), items >= 0, retriever.has_clock)
        past = torch.from_numpy(retriever.vectors[one.items])
        with torch.inference_mode():
            vectors.append(tower.last(past, HistoryBatch(items, torch.from_numpy(one.types).long(), recency)).numpy())
    return np.concatenate(vectors)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of histories of each call of the user tower."""
    computed: list[int] = []
    last = CpuUserTower.last

    def counted(tower: CpuUserTower, vectors: Tensor, history: HistoryBatch) -> Tensor:
        computed.append(len(vectors))
        return last(tower, vectors, history)

    monkeypatch.setattr(CpuUserTower, "last", counted)
    return computed


def test_kept_vectors_are_those_of_the_tower(retriever: Retriever, histories: Histories) -> None:
    """However requests are batched, and whichever of them are known."""
    fresh, right = replace(retriever), by_the_tower(retriever, histories)
    for rows in ([2], [0, 2, 3], [4, 1, 2, 0], [0, 1, 2, 3, 4]):
        users = fresh.open(histories.rows(np.array(rows))).requests.users
        np.testing.assert_allclose(users, right[rows], atol=1e-6)


def test_a_vector_is_computed_once_until_the_history_changes(
    retriever: Retriever, histories: Histories, counts: list[int]
) -> None:
    """The moment of the request does not count; another item, type or time between two events does."""
    fresh, one = replace(retriever), histories.rows(slice(0, 1))
    first = fresh.open(one).requests.users
    later = fresh.open(replace(one, times=one.times + DAY_US, now=one.now + DAY_US)).requests.users
    assert counts == [1] and (first == later).all()
    for change in ("items", "types", "times"):
        column = getattr(one, change).copy()
        column[0, -1] += 1
        fresh.open(replace(one, **{change: column}))
    assert counts == [1, 1, 1, 1]
    fresh.open(histories)
    assert counts == [1, 1, 1, 1, 4]


def test_what_was_typed_is_not_kept(retriever: Retriever, histories: Histories) -> None:
    """Two sentences have one index, and different vectors."""
    one = histories.rows(slice(0, 1))
    users = UserVectors(retriever.model.eval().user_tower, retriever.has_clock)
    past = retriever.vectors[one.items]
    first = users.of(one, past, lasting=np.array([False]))
    second = users.of(one, past[:, ::-1].copy(), lasting=np.array([False]))
    assert not np.allclose(first, second)


def test_another_catalogue_has_other_vectors(retriever: Retriever, histories: Histories) -> None:
    """An item whose text changed changes the vectors of those who met it."""
    fresh = replace(retriever)
    before = fresh.open(histories).requests.users
    after = replace(fresh, vectors=np.ascontiguousarray(fresh.vectors[::-1])).open(histories).requests.users
    assert not np.allclose(before[0], after[0])


def test_events_of_others_leave_a_vector_as_it_is(
    retriever: Retriever, histories: Histories, counts: list[int]
) -> None:
    """Counts follow the store's events all the time; what the tower sees does not change."""
    fresh = replace(retriever)
    first = fresh.open(histories).requests.users
    nobody = np.empty(0, np.int64)
    recent = RecentEvents.of(nobody, nobody.astype(np.int32), nobody.astype(np.int8), nobody, since=0)
    counts.clear()
    assert (fresh.with_recent(recent, np.ones(8, np.float32)).open(histories).requests.users == first).all()
    assert counts == []
