"""Baselines give the known answers of small worlds."""

import numpy as np
import pytest
from scipy import sparse

from recsys.errors import RecsysError
from tests.worlds import catalogue
from training.evaluation.baselines import Als, Baseline, Ease, FrozenEncoder, Popularity, bm25, exclude, item_knn

SEEN = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], float))
PAST = np.array([[-1, 0], [2, 3], [-1, -1]], np.int32)
VECTORS = np.eye(4, dtype=np.float32)


def all_baselines() -> list[Baseline]:
    return [Popularity(SEEN), item_knn(SEEN), Als(SEEN, 2), Ease(SEEN, 1.0), FrozenEncoder(VECTORS)]


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


def test_als_prefers_items_of_like_users() -> None:
    """Users of item 0 go to item 1 more often than to item 3."""
    scores = Als(SEEN, 2).scores(np.array([[0]], np.int32))[0]
    assert scores[1] > scores[3]


def test_bm25_prefers_items_that_share_words() -> None:
    """A red sofa leads to another, not to a lamp."""
    graph = bm25(catalogue(["red sofa", "red sofa bed", "desk lamp"]))
    scores = graph.scores(np.array([[0]], np.int32))[0]
    assert scores[1] > scores[2]
