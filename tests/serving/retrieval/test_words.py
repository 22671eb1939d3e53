"""Links between items that share words: exact in small catalogues, near linear in large ones."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from features.data.dataset import load_dataset
from serving.retrieval.sources import words
from serving.retrieval.sources.words import links_between, matching_items, strongest_postings, word_index, words_of
from tests.worlds import catalogue

BEAUTY = Path(__file__).parents[4] / "shared/data/amazon-beauty"


def titles(count: int) -> list[str]:
    """Titles of five words, of which some come in most items and some in few."""
    rng = np.random.default_rng(0)
    ranks = np.minimum(rng.zipf(1.4, (count, 5)), 400)
    return [" ".join(f"word{rank}" for rank in row) for row in ranks]


def best(links: sparse.csr_matrix, row: int, k: int) -> set[int]:
    entries = links[row]
    return set(entries.indices[np.lexsort((entries.indices, -entries.data))[:k]].tolist())


def overlap(expected: sparse.csr_matrix, links: sparse.csr_matrix, k: int) -> float:
    """Return which share of the k best of `expected` the k best of `links` have."""
    shares = []
    for row in range(expected.shape[0]):
        right = best(expected, row, k)
        shares.append(len(right & best(links, row, k)) / max(len(right), 1))
    return float(np.mean(shares))


def test_a_small_catalogue_is_linked_exactly() -> None:
    """The links are the k + 1 best matches of each item's text without the item itself."""
    items = catalogue(titles(300))
    index = word_index(items)
    links, matches = links_between(index, words_of(items), 20), matching_items(index, words_of(items), 21)
    matches.setdiag(0)
    matches.eliminate_zeros()
    assert (links != matches).nnz == 0


def test_proposals_link_like_the_exact_search_where_no_word_is_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for every posting, scores are those of the exact search, equal ones aside also the items."""
    items = catalogue(titles(300))
    index = word_index(items)
    exact = links_between(index, words_of(items), 20)
    monkeypatch.setattr(words, "EXACT_ITEMS", 0)
    monkeypatch.setattr(words, "COMPARED", 100)
    links = links_between(index, words_of(items), 20)
    for row in range(300):
        np.testing.assert_allclose(np.sort(links[row].data)[-20:], np.sort(exact[row].data)[-20:], rtol=1e-5)
    assert overlap(exact, links, 5) > 0.95
    assert not links.diagonal().any()


def test_an_item_of_frequent_words_alone_is_measured_by_its_own_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no word proposes the item itself: an equal one has the score 1."""
    items = catalogue(["lamp", *["lamp chair"] * 3, "lamp chair"])
    index = word_index(items)
    monkeypatch.setattr(words, "EXACT_ITEMS", 0)
    monkeypatch.setattr(words, "POSTINGS", 1)
    links = links_between(index, words_of(items), 3)
    assert links[4, 1] == pytest.approx(1.0)
    assert links.diagonal().sum() == 0


def test_an_item_without_known_words_has_no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    items = catalogue(["lamp", "the", "lamp chair"])
    monkeypatch.setattr(words, "EXACT_ITEMS", 0)
    links = links_between(word_index(items), words_of(items), 2)
    assert links[1].nnz == 0
    assert links[0].indices.tolist() == [2]


@pytest.mark.slow
def test_few_postings_still_find_most_of_what_is_closest_in_a_real_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """12,101 items, of which a word proposes at most 200, the share that 2,000 are of 120,000."""
    if not BEAUTY.exists():
        pytest.skip(f"{BEAUTY} is absent")
    items = load_dataset(BEAUTY).items
    index, texts = word_index(items), words_of(items)
    exact = links_between(index, texts, 200)
    monkeypatch.setattr(words, "EXACT_ITEMS", 0)
    monkeypatch.setattr(words, "POSTINGS", 200)
    links = links_between(index, texts, 200)
    assert overlap(exact, links, 20) > 0.97
    assert overlap(exact, links, 200) > 0.9


def test_strongest_postings_are_the_largest_of_each_row_and_the_first_of_equals() -> None:
    rng = np.random.default_rng(1)
    dense = np.floor(rng.random((20, 50)) * 6).astype(np.float32)
    kept = strongest_postings(sparse.csr_matrix(dense), 7).toarray()
    for row, values in zip(kept, dense, strict=True):
        expected = np.argsort(-values, kind="stable")[:7]
        assert set(np.flatnonzero(row)) == set(expected[values[expected] > 0])
        np.testing.assert_array_equal(row[np.flatnonzero(row)], values[np.flatnonzero(row)])
