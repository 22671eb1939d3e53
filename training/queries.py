"""From clicked queries to a search that finds what they were about: a stage of `recsys train`.

In: the retriever that serves, and the dataset's table `queries`. Out: a `QueryTower`, and what it does for queries of later times.

A small linear residual is added to the vectors of queries, and their words get a weight. Both begin as the search without them and are fitted by a softmax
over the items, a clicked one against the others, with restraint. Queries of the time of `train` are fitted, those of `valid` choose the
epoch, by the logarithms of ranks, and whether it is kept, by MRR@10; then all that `--fit-on` allows are fitted, and those of `test` are measured.
Queries that are the title of an item are left out: that item comes first anyway.

Shapes: Q queries, T distinct texts, N catalogue, D width, B queries of a step, S items of a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.arrays import Bools, Floats, Ints
from recsys.config import TextConfig
from recsys.metrics import Interval, bootstrap_interval, paired_difference, reciprocal_rank, target_ranks
from recsys.progress import Update
from serving.loading import read_sentences, rows_of
from serving.retrieval.queries import QueryTower
from serving.retrieval.retriever import Retriever
from training.plan import FitOn
from training.text.fit import fit

LEAST_FITTED, LEAST_VALID = 200, 50
"""Clicked queries of `train` and of `valid` below which nothing is learned."""
MOST_READ, MOST_MEASURED = 300_000, 5_000
"""Clicked queries that are read, and those of `valid` and of `test` that are measured: the newest."""
MOST_ITEMS = 20_000
"""Items that a step compares at most; of larger catalogues they are drawn."""
RESTRAINT = 0.01
"""Weight of the squares of the residual."""
SCHEDULE = TextConfig(epochs=40, patience=5, batch=64, head_learning_rate=3e-3)
LIST_LENGTH = 10
BLOCK = 16_000_000
"""Scores that are held at once."""


@dataclass(frozen=True)
class ClickedQueries:
    """What was typed and which item was then chosen, one row each."""

    vectors: Floats
    """`[T, D]` of the distinct texts."""
    matches: sparse.csr_matrix
    """`[T, N]` how well the words of each text match each item."""
    texts: Ints
    """`[Q]` the text of each row."""
    items: Ints
    """`[Q]`"""
    times: Ints
    """`[Q]`"""

    @classmethod
    def of(cls, table: pl.DataFrame, retriever: Retriever, tokenizer: Any) -> "ClickedQueries":
        """Read the rows of a dataset's table `queries`, of which there are some, as the search of `retriever` reads them."""
        distinct = table["query"].unique(maintain_order=True)
        sentences = read_sentences(retriever, tokenizer, distinct.to_list())
        shape = (len(distinct), len(retriever.vectors))
        matches = sum(sentences.matches.values(), sparse.csr_matrix(shape, dtype=np.float32))
        items = rows_of(retriever.items["item_id"], table["item_id"])
        return cls(sentences.vectors, matches, rows_of(distinct, table["query"]), items, table["timestamp"].to_numpy())

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, rows: Ints | Bools) -> "ClickedQueries":
        """Return some of the rows."""
        return ClickedQueries(self.vectors, self.matches, self.texts[rows], self.items[rows], self.times[rows])

    def blocks(self, width: int) -> Iterator["ClickedQueries"]:
        """Yield all rows, so many at a time that `width` numbers each take little memory."""
        size = max(1, BLOCK // width)
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    def newest(self, most: int) -> "ClickedQueries":
        """Return the last rows, `most` at most."""
        return self.rows(np.arange(max(0, len(self) - most), len(self)))


@dataclass(frozen=True)
class QueryReport:
    """MRR@10 of the search without what was learned and with it, on the same queries."""

    before: Interval
    after: Interval
    gain: Interval
    queries: int

    @classmethod
    def of(cls, tower: QueryTower, queries: ClickedQueries, retriever: Retriever) -> "QueryReport":
        """Measure `tower` on `queries`; intervals are over texts, since equal ones have equal lists."""
        untaught = QueryTower.untaught(retriever.vectors.shape[1])
        before, after = (reciprocal_ranks(ranks_of(one, queries, retriever)) for one in (untaught, tower))
        return cls(
            bootstrap_interval(before, queries.texts),
            bootstrap_interval(after, queries.texts),
            paired_difference(after, before, queries.texts),
            len(queries),
        )

    def line(self, split: str) -> str:
        """Return the report as a line."""
        before, after, gain = (
            f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in (self.before, self.after, self.gain)
        )
        return f"MRR@10 of {self.queries:,} queries of {split} is {after}, without learning {before}; difference {gain}"

    def metrics(self) -> dict[str, float]:
        """Return the figures for MLflow."""
        named = {"search": self.after, "search_unlearned": self.before, "search_gain": self.gain}
        return {
            f"test_{name}_mrr@10{end}": value
            for name, interval in named.items()
            for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high))
        }


@dataclass(frozen=True)
class LearnedQueries:
    """What became of the queries."""

    tower: QueryTower | None
    """None where it did not prove better."""
    said: str
    """For people."""
    test: QueryReport | None = None


class _Network(nn.Module):
    """A `QueryTower` that is being fitted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.residual.weight)
        self.words = nn.Parameter(torch.tensor(0.0))
        """Logarithm of the weight of words."""
        self.scale = nn.Parameter(torch.tensor(3.0))
        """Logarithm of the factor that turns relevance into logits."""

    def loss(self, queries: ClickedQueries, vectors: Floats, items: Ints) -> Tensor:
        """Return the mean softmax loss of what was chosen after `queries`, among the `items` `[S]` of a catalogue of `vectors` `[N, D]`."""
        typed = torch.from_numpy(queries.vectors[queries.texts])  # [B, D]
        moved = F.normalize(typed + self.residual(typed), dim=-1)
        matches = torch.from_numpy(queries.matches[queries.texts][:, items].toarray())  # [B, S]
        relevance = moved @ torch.from_numpy(vectors[items]).T + self.words.exp() * matches
        return F.cross_entropy(self.scale.exp() * relevance, torch.from_numpy(np.searchsorted(items, queries.items)))

    def tower(self) -> QueryTower:
        """Return it as it is now."""
        return QueryTower(self.residual.weight.detach().numpy().copy(), float(self.words.detach().exp()))


def learn(
    table: pl.DataFrame,
    retriever: Retriever,
    tokenizer: Any,
    cuts: tuple[int, int],
    fit_on: FitOn,
    seed: int,
    update: Update = lambda share, note: None,
) -> LearnedQueries:
    """Return what the queries of `table` teach; `cuts` are the times with which `valid` and `test` begin."""
    table = newest_queries(table, retriever.items)
    part = np.searchsorted(cuts, table["timestamp"].to_numpy(), side="right")  # 0 train, 1 valid, 2 test
    counts = np.bincount(part, minlength=3)
    if counts[0] < LEAST_FITTED or counts[1] < LEAST_VALID:
        return LearnedQueries(
            None,
            f"too little to learn from: {counts[0]:,} queries of train and {counts[1]:,} of valid; "
            f"at least {LEAST_FITTED} and {LEAST_VALID} are needed",
        )
    queries = ClickedQueries.of(table, retriever, tokenizer)
    train, valid, test = (queries.rows(part == index) for index in range(3))
    valid, test = valid.newest(MOST_MEASURED), test.newest(MOST_MEASURED)
    tower, epochs = fit_tower(train, retriever, SCHEDULE, seed, valid, update)
    chosen = QueryReport.of(tower, valid, retriever)
    if chosen.gain.low <= 0:
        return LearnedQueries(None, f"not kept: {chosen.line('valid')}")
    if fit_on != "train":
        fitted = queries if fit_on == "all" else queries.rows(part < 2)
        tower, _ = fit_tower(fitted, retriever, SCHEDULE.model_copy(update={"epochs": epochs}), seed)
    measured = QueryReport.of(tower, test, retriever) if len(test) and fit_on != "all" else None
    return LearnedQueries(tower, (measured or chosen).line("test" if measured else "valid"), measured)


def newest_queries(table: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the last rows of `table` in order of time, without queries that are the title of one of `items`."""
    flat = pl.col("query").str.strip_chars().str.to_lowercase()
    titles = items["title"].str.strip_chars().str.to_lowercase()
    return table.filter(~flat.is_in(titles.implode())).sort("timestamp", maintain_order=True).tail(MOST_READ)


def fit_tower(
    queries: ClickedQueries,
    retriever: Retriever,
    schedule: TextConfig,
    seed: int,
    valid: ClickedQueries | None = None,
    update: Update = lambda share, note: None,
) -> tuple[QueryTower, int]:
    """Return the tower fitted on `queries`, and its epoch: that of the best ranks on `valid`, without it the last one."""
    torch.manual_seed(seed)
    rng, every = np.random.default_rng(seed), np.arange(len(retriever.vectors))
    network = _Network(retriever.vectors.shape[1])
    figures: list[float] = []

    def loss_of(rows: Ints) -> Tensor:
        drawn = rng.choice(every, min(MOST_ITEMS, len(every)), replace=False)
        own = queries.rows(rows)
        loss = network.loss(own, retriever.vectors, np.union1d(own.items, drawn))
        return loss + RESTRAINT * network.residual.weight.square().sum()

    def figure() -> float:
        # The mean logarithm of the ranks is less noisy than MRR@10, and the loss minds how sure the network is, which no search does.
        figures.append(-float(np.log(ranks_of(network.tower(), valid, retriever)).mean()) if valid else len(figures))
        return figures[-1]

    fit(network, loss_of, figure, np.ones(len(queries), np.int64), schedule, seed=seed, precision="fp32", update=update)
    return network.tower(), 1 + int(np.argmax(figures))


def ranks_of(tower: QueryTower, queries: ClickedQueries, retriever: Retriever) -> np.ndarray:
    """Return the rank `[Q]` of each chosen item among those that were there when it was chosen."""
    ranks = []
    for block in queries.blocks(len(retriever.vectors)):
        scores = tower.vectors(block.vectors[block.texts]) @ retriever.vectors.T  # [Q, N]
        scores += tower.words * block.matches[block.texts].toarray()
        scores[~retriever.listed.open_for(block.times)] = -np.inf
        ranks.append(target_ranks(scores, block.items, np.arange(len(block) + 1)))
    return np.concatenate(ranks)


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / rank where the chosen item is among the first ten, else 0, `[Q]`."""
    return reciprocal_rank(np.where(ranks <= LIST_LENGTH, ranks, np.inf), np.arange(len(ranks) + 1))
