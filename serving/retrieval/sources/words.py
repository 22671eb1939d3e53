"""Which items share words: the BM25 index of the items' texts, and the search in it.

In: the catalogue, or texts. Out: the index, and sparse scores of the items that match. A text is matched exactly. The links between all items of
a large catalogue are not: comparing each with all that share a word with it takes time that grows with the square of the catalogue,
since the frequent words come in more and more items. There, a word proposes at most `POSTINGS` items, and what many words of an item
propose is compared exactly.

Shapes: T texts, N catalogue, V vocabulary.
"""

import logging
from collections.abc import Iterator

import bm25s
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.arrays import Floats, Ints, offsets_of
from recsys.progress import stage

EXACT_ITEMS = 20_000
"""Items up to which every item is compared with all that share a word with it, which takes some 10 s of a core for so many."""
POSTINGS = 2000
"""Items that a word proposes at most in larger catalogues: those in which it says most, so the ones with short texts."""
COMPARED = 4
"""How many times as many items as are kept are compared exactly in larger catalogues: those that what is proposed speaks for most."""
BLOCK = 64
"""Texts that are searched for at a time."""

WORDS = pl.concat_str("title", "brand", "category", pl.col("tags").list.join(" "), separator=" ", ignore_nulls=True)
TOKENS = {"stopwords": "en", "show_progress": False}

logging.getLogger("bm25s").setLevel(logging.WARNING)


def word_index(items: pl.DataFrame) -> bm25s.BM25:
    """Return the index of the words of all items, those of their descriptions' beginnings among them."""
    described = pl.concat_str(WORDS, pl.col("description").str.slice(0, 500), separator=" ", ignore_nulls=True)
    corpus = bm25s.tokenize(items.select(described).to_series().to_list(), **TOKENS)
    words = bm25s.BM25()
    words.index(corpus, show_progress=False)
    return words


def words_of(items: pl.DataFrame) -> list[str]:
    """Return each item's title, brand, category and tags as one text."""
    return items.select(WORDS).to_series().to_list()


def matching_items(words: bm25s.BM25, texts: list[str], k: int) -> sparse.csr_matrix:
    """Return the scores `[T, N]` of the k items that match each of T texts best, 1 for the best of a text."""
    count = int(words.scores["num_docs"])
    k = min(k, count)
    queries = bm25s.tokenize(texts, return_ids=False, **TOKENS) if texts else []
    if not queries:
        return sparse.csr_matrix((0, count), dtype=np.float32)
    items, scores = (np.asarray(array) for array in words.retrieve(queries, k=k, show_progress=False))  # [T, k]
    relative = (scores / np.maximum(scores[:, :1], 1e-6)).ravel()
    matched = scores.ravel() > 0
    rows = np.repeat(np.arange(len(texts)), k)[matched]
    return sparse.csr_matrix((relative[matched], (rows, items.ravel()[matched])), shape=(len(texts), count))


def links_between(words: bm25s.BM25, texts: list[str], k: int) -> sparse.csr_matrix:
    """Return the scores `[N, N]` of the k other items that match each item's text best, 1 for its own.

    `texts` `[N]` are those of the items in `words`. Beyond `EXACT_ITEMS` items a few links are others than the k best.
    """
    if len(texts) > EXACT_ITEMS:
        return _links_by_proposals(words, texts, k)
    matches = matching_items(words, texts, k + 1).tocoo()
    other = matches.row != matches.col
    return sparse.csr_matrix((matches.data[other], (matches.row[other], matches.col[other])), shape=matches.shape)


def _links_by_proposals(words: bm25s.BM25, texts: list[str], k: int) -> sparse.csr_matrix:
    """Return what `links_between` does; the memory beside the index is that of the links and of one block."""
    count, done = len(texts), 0
    items, scores = np.empty(count * k, np.int32), np.empty(count * k, np.float32)  # takes memory where it is written
    counts = np.zeros(count, np.int64)
    with stage("linking items that share words") as update:
        for row, (others, similarity) in enumerate(_each_items_links(words, texts, k)):
            stop = done + len(others)
            items[done:stop], scores[done:stop], counts[row], done = others, similarity, len(others), stop
            update((row + 1) / count, "")
    return sparse.csr_matrix((scores[:done], items[:done], offsets_of(counts)), shape=(count, count))


def _each_items_links(words: bm25s.BM25, texts: list[str], k: int) -> Iterator[tuple[Ints, Floats]]:
    """Yield the k others that match each item best, and their scores relative to its own."""
    postings = _postings(words)
    described, proposing = postings.T.tocsr(), strongest_postings(postings, POSTINGS)
    for start in range(0, len(texts), BLOCK):
        queries = _counted(words, texts[start : start + BLOCK])
        proposals, own = queries @ proposing, np.arange(start, start + queries.shape[0])
        candidates = [np.append(_best(*_row(proposals, row), COMPARED * k), item) for row, item in enumerate(own)]
        for item, ids, scores in zip(own, candidates, _exact(queries, described, candidates), strict=True):
            relative = scores / max(scores.max(), 1e-6)
            relative[ids == item] = 0
            least = np.partition(relative, -k)[-k] if len(ids) > k else 0
            others = np.flatnonzero((relative >= least) & (relative > 0))
            kept = np.sort(others[np.lexsort((ids[others], -relative[others]))[:k]])
            yield ids[kept], relative[kept]


def _postings(words: bm25s.BM25) -> sparse.csr_matrix:
    """Return what each word says of each item, `[V, N]`."""
    saved = words.scores
    shape = (len(saved["indptr"]) - 1, int(saved["num_docs"]))
    return sparse.csr_matrix((saved["data"], saved["indices"], saved["indptr"]), shape=shape)


def strongest_postings(postings: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """Return `postings` `[V, N]` with the `most` largest entries of each row, the first of equals."""
    counts = np.diff(postings.indptr)
    kept = np.ones(postings.nnz, bool)
    for word in np.flatnonzero(counts > most):
        span = slice(postings.indptr[word], postings.indptr[word + 1])
        kept[span] = False
        kept[span.start + np.argsort(-postings.data[span], kind="stable")[:most]] = True
    offsets = offsets_of(np.minimum(counts, most))
    return sparse.csr_matrix((postings.data[kept], postings.indices[kept], offsets), shape=postings.shape)


def _counted(words: bm25s.BM25, texts: list[str]) -> sparse.csr_matrix:
    """Return how often each word of the index comes in each text, `[T, V]`."""
    known = words.vocab_dict
    tokens = [
        [known[word] for word in text if word in known] for text in bm25s.tokenize(texts, return_ids=False, **TOKENS)
    ]
    offsets = offsets_of(np.array([len(text) for text in tokens]))
    columns = np.array([word for text in tokens for word in text], np.int64)
    shape = (len(texts), len(words.scores["indptr"]) - 1)
    counted = sparse.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=shape)
    counted.sum_duplicates()
    return counted


def _row(matrix: sparse.csr_matrix, row: int) -> tuple[NDArray[np.int32], Floats]:
    span = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[span], matrix.data[span]


def _best(ids: NDArray[np.int32], scores: Floats, most: int) -> NDArray[np.int32]:
    """Return the `most` of `ids` with the largest scores, in any order."""
    return ids if len(ids) <= most else ids[np.argpartition(scores, len(scores) - most)[len(scores) - most :]]


def _exact(queries: sparse.csr_matrix, described: sparse.csr_matrix, candidates: list[Ints]) -> Iterator[Floats]:
    """Yield the scores of the `candidates` `[T]` of each row of `queries` `[T, V]`, by all that is `described` `[N, V]`."""
    weights = np.zeros(queries.shape[1], np.float32)
    for row, ids in enumerate(candidates):
        words, times = _row(queries, row)
        weights[words] = times
        yield described[ids] @ weights
        weights[words] = 0
