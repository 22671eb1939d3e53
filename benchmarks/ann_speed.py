"""Recall and speed of the index, beside exact search in the same run.

    python -m benchmarks.ann_speed                        # 100,000 and 1,000,000 items, some 5 minutes

One query at a time, one thread, k = 100. Unit vectors are drawn around topics, and queries near items.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from rich.table import Table

from recsys.progress import console, stage
from serving.retrieval.index import VectorIndex

WIDTH = 384
K = 100
EXACT_QUERIES = 50
"""Queries that exact search is timed on, one at a time; the rest are searched in one call."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    table = Table("items", "build s", "ms a query", "exact, ms a query", f"recall@{K}")
    for count in options.items:
        table.add_row(f"{count:,}", *measure(count, options.queries))
    console.print(table)


def measure(count: int, query_count: int) -> list[str]:
    """Return the row of a catalogue of `count` items."""
    vectors, queries = random_vectors(count, query_count)
    with stage(f"indexing {count:,} items"):
        start = time.perf_counter()
        index = VectorIndex.build(vectors, np.arange(count))
        build_s = time.perf_counter() - start
    exact = faiss.IndexFlatIP(WIDTH)
    exact.add(vectors)
    timed = queries[:EXACT_QUERIES]
    with one_thread():
        start = time.perf_counter()
        neighbours = [index.search(query[None], K)[0] for query in queries]
        index_ms = 1000 * (time.perf_counter() - start) / len(queries)
        start = time.perf_counter()
        nearest = [exact.search(query[None], K)[1][0] for query in timed]
        exact_ms = 1000 * (time.perf_counter() - start) / len(timed)
    nearest += list(exact.search(queries[EXACT_QUERIES:], K)[1])
    recall = np.mean([np.isin(true, ours).mean() for true, ours in zip(nearest, neighbours, strict=True)])
    return [f"{build_s:.0f}", f"{index_ms:.2f}", f"{exact_ms:.1f}", f"{recall:.4f}"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS use one thread in this context, and as many as before after it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def random_vectors(count: int, query_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors `[count, D]` around topics, and queries `[query_count, D]` near some of them."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(max(count // 200, 1), WIDTH)).astype(np.float32)
    vectors = topics[rng.integers(len(topics), size=count)]
    vectors += 0.7 * rng.standard_normal((count, WIDTH), np.float32)
    queries = vectors[rng.integers(count, size=query_count)]
    queries = queries + 0.5 * rng.standard_normal((query_count, WIDTH), np.float32)
    for rows in (vectors, queries):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors, queries


if __name__ == "__main__":
    main()
