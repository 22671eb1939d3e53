"""Baselines give the known answers of small worlds."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from features.data.dataset import load_dataset
from features.histories import read_log
from recsys.config import Config
from recsys.errors import RecsysError
from tests.worlds import catalogue, write_dataset
from training.evaluation import baselines
from training.evaluation.baselines import (
    Als,
    Baseline,
    Ease,
    FrozenEncoder,
    Popularity,
    Sum,
    bm25,
    exclude,
    fit_baselines,
    item_knn,
)

SEEN = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], float))
PAST = np.array([[-1, 0], [2, 3], [-1, -1]], np.int32)
VECTORS = np.eye(4, dtype=np.float32)


def all_baselines() -> list[Baseline]:
    frozen = FrozenEncoder(VECTORS)
    return [Popularity(SEEN), item_knn(SEEN), Als(SEEN, 2), Ease(SEEN, 1.0), frozen, Sum(Ease(SEEN, 1.0), frozen)]


@pytest.mark.parametrize("baseline", all_baselines(), ids=lambda y: type(y).__name__)
def test_batch_equals_single(baseline: Baseline) -> None:
    """A request scores the same alone and among others; an empty history is no exception."""
    whole = baseline.scores(PAST)
    assert whole.shape == (3, 4)
    for row in range(3):
        np.testing.assert_allclose(baseline.scores(PAST[row : row + 1])[0], whole[row], rtol=1e-4, atol=1e-6)


def test_ease_equals_the_plain_formula() -> None:
    """The closed form matches Steck's equation computed step by step."""
    gram = (SEEN.T @ SEEN).toarray() + 2.0 * np.eye(4)
    inverse = np.linalg.inv(gram)
    expected = np.eye(4) - inverse @ np.diag(1 / np.diag(inverse))
    np.testing.assert_allclose(Ease(SEEN, 2.0).weights, expected, atol=1e-6)


def test_the_weights_of_ease_are_multiplied_without_being_copied() -> None:
    """A product of SciPy copies a matrix whose rows do not lie one after the other."""
    assert Ease(SEEN, 2.0).weights.flags.c_contiguous


def test_ease_refuses_a_catalogue_whose_matrix_is_too_large() -> None:
    """The error says how much memory the dense matrix would take."""
    with pytest.raises(RecsysError, match="GiB"):
        Ease(sparse.csr_matrix((2, 30_000)))


def test_item_knn_prefers_items_with_the_same_users() -> None:
    """Item 1 shares two users with item 0, item 2 one, item 3 none."""
    scores = item_knn(SEEN).scores(np.array([[0]], np.int32))[0]
    assert scores[1] > scores[2] > scores[3] == 0


def test_excluded_items_come_last() -> None:
    """Seen items get -inf and nothing else changes."""
    scores = exclude(Popularity(SEEN).scores(PAST), PAST)
    assert np.isneginf(scores[0, 0])
    assert np.isfinite(scores[0, 1:]).all()


def test_a_sum_gives_each_part_the_same_say_whatever_its_scale() -> None:
    """By hand: the first row has mean 2 and deviation √1.5, a constant one says nothing, opposed ones cancel."""

    class Fixed:
        def __init__(self, row: list[float]) -> None:
            self.row = row

        def scores(self, histories: np.ndarray) -> np.ndarray:
            return np.tile(np.array(self.row, np.float32), (len(histories), 1))

    expected = np.array([-2, 0, 1, 1]) / np.sqrt(1.5)
    one = Sum(Fixed([0, 2, 3, 3]), Fixed([5, 5, 5, 5])).scores(PAST)
    np.testing.assert_allclose(one, np.tile(expected, (3, 1)), rtol=1e-6)
    opposed = Sum(Fixed([0, 2, 0, 0]), Fixed([0, -1000, 0, 0])).scores(PAST)
    np.testing.assert_allclose(opposed, 0, atol=1e-6)


def test_what_is_left_out_takes_its_sum_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without EASE there is no sum of EASE and bm25, and both say why; with it, the sum is made of the same two."""
    dataset = load_dataset(write_dataset(tmp_path))
    log = read_log(dataset, Config())
    monkeypatch.setattr(baselines, "frozen_vectors", lambda config, items: np.eye(items.height, dtype=np.float32))
    fitted, skipped = fit_baselines(Config(), dataset.items, dataset, log, "train", slow=True)
    both = fitted["ease + bm25"]
    assert isinstance(both, Sum) and both.parts == (fitted["ease"], fitted["bm25"]) and not skipped
    monkeypatch.setattr(baselines, "EASE_LIMIT", 7)
    fitted, skipped = fit_baselines(Config(), dataset.items, dataset, log, "train", slow=True)
    assert "ease + bm25" not in fitted
    assert skipped["ease"] == skipped["ease + bm25"] != ""


def test_als_prefers_items_of_like_users() -> None:
    """Users of item 0 go to item 1 more often than to item 3."""
    scores = Als(SEEN, 2).scores(np.array([[0]], np.int32))[0]
    assert scores[1] > scores[3]


def test_bm25_prefers_items_that_share_words() -> None:
    """A red sofa leads to another, not to a lamp."""
    graph = bm25(catalogue(["red sofa", "red sofa bed", "desk lamp"]))
    scores = graph.scores(np.array([[0]], np.int32))[0]
    assert scores[1] > scores[2]
