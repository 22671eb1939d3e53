"""What the links between items that share words lose where they are not searched exactly.

    python -m benchmarks.word_links ../shared/data/amazon-beauty --postings 200 2000

For a dataset: how many of an item's best 20 and 200 links are those of the exact search, and how well each user's last item is found
by the links of the ten before it, the latest counting most. A catalogue of N items with P postings a word stands for one of 2,000 / P x N
items with the 2,000 of the lexical source.
"""

import argparse
import time
from pathlib import Path

import bm25s
import numpy as np
from rich.table import Table
from scipy import sparse

from features.data.dataset import load_dataset
from features.histories import EventLog, read_log
from recsys.config import Config
from recsys.metrics import ndcg, recall, target_ranks
from recsys.progress import console
from serving.retrieval.sources import words
from serving.retrieval.sources.base import HISTORY_DECAY
from serving.retrieval.sources.graphs import NEIGHBOURS

HISTORY = 10
REQUESTS = 5000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--postings", type=int, nargs="+", default=[50, 200, 2000])
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    log = read_log(dataset, Config())
    index, texts = words.word_index(dataset.items), words.words_of(dataset.items)
    table = Table("postings", "seconds", "overlap@20", f"overlap@{NEIGHBOURS}", "ndcg@10", f"recall@{NEIGHBOURS}")
    words.EXACT_ITEMS = len(texts)
    exact, seconds = linked(index, texts)
    table.add_row("all (exact)", f"{seconds:.1f}", "", "", *found(log, exact))
    words.EXACT_ITEMS = 0
    for words.POSTINGS in options.postings:
        links, seconds = linked(index, texts)
        shares = [f"{overlap(exact, links, k):.3f}" for k in (20, NEIGHBOURS)]
        table.add_row(f"{words.POSTINGS:,}", f"{seconds:.1f}", *shares, *found(log, links))
    console.print(table)


def linked(index: bm25s.BM25, texts: list[str]) -> tuple[sparse.csr_matrix, float]:
    """Return the links `[N, N]`, and the seconds that they took."""
    start = time.perf_counter()
    return words.links_between(index, texts, NEIGHBOURS), time.perf_counter() - start


def overlap(exact: sparse.csr_matrix, links: sparse.csr_matrix, k: int) -> float:
    """Return which share of an item's k best exact links are among its k best `links`, on average."""
    pairs = zip(best(exact, k), best(links, k), strict=True)
    return float(np.mean([len(right & ours) / max(len(right), 1) for right, ours in pairs]))


def best(links: sparse.csr_matrix, k: int) -> list[set[int]]:
    """Return the k best of each row, of equals the first."""
    spans = [slice(*links.indptr[row : row + 2]) for row in range(links.shape[0])]
    return [
        set(links.indices[span][np.lexsort((links.indices[span], -links.data[span]))[:k]].tolist()) for span in spans
    ]


def found(log: EventLog, links: sparse.csr_matrix) -> list[str]:
    """Return ndcg@10 and recall@200 of each user's last item."""
    users = np.flatnonzero(np.diff(log.offsets) > 1)[:REQUESTS]
    last = log.offsets[users + 1] - 1
    past = log.histories(users, log.times[last], HISTORY).items
    rows, columns = np.nonzero(past >= 0)
    weights = (HISTORY_DECAY ** np.arange(HISTORY, dtype=np.float32)[::-1])[columns]
    histories = sparse.csr_matrix((weights, (rows, past[rows, columns])), shape=(len(users), links.shape[0]))
    scores = (histories @ links).toarray()
    scores[rows, past[rows, columns]] = -1
    offsets = np.arange(len(users) + 1)
    ranks = target_ranks(scores, log.items[last], offsets)
    return [f"{ndcg(ranks, offsets, 10).mean():.4f}", f"{recall(ranks, offsets, NEIGHBOURS).mean():.4f}"]


if __name__ == "__main__":
    main()
