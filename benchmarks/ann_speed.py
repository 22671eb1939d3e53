"""How many of the nearest items the index finds, and how fast, beside exact search in the same run.

    python -m benchmarks.ann_speed                        # 100,000 and 1,000,000 items, some 5 minutes

One query at a time, one thread, k = 100, made-up unit vectors around topics; queries lie near items.
"""

import argparse
import time

import faiss
import numpy as np
from rich.table import Table

from recsys.progress import console, stage
from serving.retrieval.index import VectorIndex

WIDTH = 384
K = 100


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


def measure(count: int, asked: int) -> list[str]:
    """Return the row of a catalogue of `count` items."""
    vectors, queries = made_up(count, asked)
    with stage(f"indexing {count:,} items"):
        start = time.perf_counter()
        index = VectorIndex.build(vectors, np.arange(count))
        built = time.perf_counter() - start
    exact = faiss.IndexFlatIP(WIDTH)
    exact.add(vectors)
    faiss.omp_set_num_threads(1)
    start = time.perf_counter()
    found = [index.search(query[None], K)[0] for query in queries]
    ours = time.perf_counter() - start
    start = time.perf_counter()
    wanted = [exact.search(query[None], K)[1][0] for query in queries[:50]]
    plain = (time.perf_counter() - start) / 50
    faiss.omp_set_num_threads(faiss.omp_get_max_threads())
    wanted += list(exact.search(queries[50:], K)[1])
    recall = np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)])
    return [f"{built:.0f}", f"{1000 * ours / asked:.2f}", f"{1000 * plain:.1f}", f"{recall:.4f}"]


def made_up(count: int, asked: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors `[count, D]` around topics, and queries `[asked, D]` near some of them."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(max(count // 200, 1), WIDTH)).astype(np.float32)
    vectors = topics[rng.integers(len(topics), size=count)]
    vectors += 0.7 * rng.standard_normal((count, WIDTH), np.float32)
    queries = vectors[rng.integers(count, size=asked)] + 0.5 * rng.standard_normal((asked, WIDTH), np.float32)
    for rows in (vectors, queries):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors, queries


if __name__ == "__main__":
    main()
