"""Baselines: recommenders without a trained text model, measured in the same report.

In: interactions `[V, N]` (users by items, event weights) and histories. Out: scores `[R, N]`.

Shapes: V users, N catalogue, R requests, L history positions (right-aligned, -1 padded), H width.
"""

import warnings
from typing import Protocol

import numpy as np
import polars as pl
import torch
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning
from numpy.typing import NDArray
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from features.data.dataset import Dataset
from features.histories import EventLog
from features.tokens import item_tokens
from recsys.arrays import Floats
from recsys.config import WORK, Config, EncoderConfig
from recsys.errors import RecsysError
from recsys.events import EVENT_TYPES
from recsys.models.encoder import FrozenPrefix, encode_all, load_encoder, resolve_precision
from recsys.progress import stage
from serving.retrieval.sources.base import HISTORY_DECAY
from serving.retrieval.sources.graphs import NEIGHBOURS, LexicalSource
from training.plan import PLANS

Histories = NDArray[np.int32]

EASE_LIMIT = 20_000
"""Most items for which the dense `[N, N]` matrix of EASE is solved."""


class Baseline(Protocol):
    """Scores the whole catalogue for histories."""

    def scores(self, histories: Histories) -> Floats:
        """Return `[R, N]` for item indexes `[R, L]`."""
        ...


class Popularity:
    """The sum of event weights of each item."""

    def __init__(self, interactions: sparse.csr_matrix) -> None:
        self.total = np.asarray(interactions.sum(0), np.float32).ravel()

    def scores(self, histories: Histories) -> Floats:
        """Return the same scores for every request."""
        return np.tile(self.total, (len(histories), 1))


class ItemGraph:
    """A history's items lead to others by a sparse matrix `[N, N]`."""

    def __init__(self, graph: sparse.csr_matrix) -> None:
        self.graph = graph

    def scores(self, histories: Histories) -> Floats:
        """Return the decayed history times the matrix."""
        return np.asarray((decayed(histories, self.graph.shape[0]) @ self.graph).todense(), np.float32)


def item_knn(interactions: sparse.csr_matrix) -> ItemGraph:
    """Return cosines between items' users, the nearest 200 per item (Sarwar et al. 2001; implicit)."""
    model = CosineRecommender(K=NEIGHBOURS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # of a conversion within the library
        model.fit(sparse.csr_matrix(interactions > 0, dtype=np.float64), show_progress=False)
    similarity = sparse.lil_matrix(model.similarity, dtype=np.float32)
    similarity.setdiag(0)
    return ItemGraph(sparse.csr_matrix(similarity))


def bm25(items: pl.DataFrame) -> ItemGraph:
    """Return how well each item's words find every other (Robertson et al. 1994; bm25s)."""
    return ItemGraph(LexicalSource.of_items(items).graph)


class Als:
    """Matrix factorisation of implicit feedback (Hu et al. 2008; implicit); histories are folded in."""

    def __init__(self, interactions: sparse.csr_matrix, factors: int = 64) -> None:
        with threadpool_limits(1, "blas"):  # implicit has threads of its own and warns of others
            self.model = AlternatingLeastSquares(
                factors, regularization=0.05, alpha=20.0, iterations=15, random_state=0, num_threads=1
            )
            self.model.fit(sparse.csr_matrix(interactions > 0, dtype=np.float32), show_progress=False)

    def scores(self, histories: Histories) -> Floats:
        """Return the products of the histories' vectors with those of all items."""
        past = decayed(histories, len(self.model.item_factors))
        users = self.model.recalculate_user(np.arange(len(histories)), past)
        return np.asarray(users @ self.model.item_factors.T, np.float32)


class Ease:
    """The closed-form linear autoencoder EASE (Steck 2019), equation 8."""

    def __init__(self, interactions: sparse.csr_matrix, regularisation: float = 200.0) -> None:
        """Solve for the item weights.

        Raises:
            RecsysError: the catalogue is too large for a dense matrix.
        """
        count = interactions.shape[1]
        if count > EASE_LIMIT:
            raise RecsysError(f"{count:,} items need a dense matrix of {count * count * 8 / 2**30:.0f} GiB")
        seen = (interactions > 0).astype(np.float64)
        gram = np.asarray((seen.T @ seen).todense())
        gram[np.diag_indices(count)] += regularisation
        inverse = linalg.inv(gram, overwrite_a=True)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self.weights = np.ascontiguousarray(weights, np.float32)  # a product would copy any other order, each time

    def scores(self, histories: Histories) -> Floats:
        """Return the decayed history times the item weights."""
        return np.asarray(decayed(histories, len(self.weights)) @ self.weights, np.float32)


class Sum:
    """The sum of other baselines' scores, those of each request standardised."""

    def __init__(self, *parts: Baseline) -> None:
        self.parts = parts

    def scores(self, histories: Histories) -> Floats:
        """Return the sum over the parts of their scores in standard deviations from the request's mean."""
        return np.sum([standardised(part.scores(histories)) for part in self.parts], axis=0)


class FrozenEncoder:
    """Similarity of texts under the encoder before training: sharpened cosine, decayed history."""

    temperature = 0.05

    def __init__(self, vectors: Floats) -> None:
        """`vectors` `[N, H]` are unit vectors."""
        self.vectors = vectors

    def scores(self, histories: Histories) -> Floats:
        """Return the sum over the history of decay · exp((cosine - 1) / temperature)."""
        total = np.zeros((len(histories), len(self.vectors)), np.float32)
        for back, column in enumerate(reversed(range(histories.shape[1]))):
            known = np.flatnonzero(histories[:, column] >= 0)
            if len(known):
                cosine = self.vectors[histories[known, column]] @ self.vectors.T
                total[known] += HISTORY_DECAY**back * np.exp((cosine - 1) / self.temperature)
        return total


def decayed(histories: Histories, count: int) -> sparse.csr_matrix:
    """Return histories as rows `[R, N]`, each event counting `HISTORY_DECAY` of the one after it."""
    rows, columns = np.nonzero(histories >= 0)
    weights = HISTORY_DECAY ** (histories.shape[1] - 1 - columns).astype(np.float32)
    return sparse.csr_matrix((weights, (rows, histories[rows, columns])), shape=(len(histories), count))


def standardised(scores: Floats) -> Floats:
    """Return `scores` `[R, N]` with mean 0 and deviation 1 in each row; a row of equal scores becomes 0."""
    deviations = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.where(deviations > 0, deviations, 1)


def exclude(scores: Floats, histories: Histories) -> Floats:
    """Return `scores` with -inf for the items of each history."""
    rows, columns = np.nonzero(histories >= 0)
    kept = scores.copy()
    kept[rows, histories[rows, columns]] = -np.inf
    return kept


def fit_baselines(
    config: Config, items: pl.DataFrame, dataset: Dataset, log: EventLog, fit_on: str, *, slow: bool
) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Fit the baselines on the events that the model was fitted on, the `slow` ones too; return those left out and why."""
    fitted = log.in_segments(*PLANS[fit_on].refit)
    weights = np.array([dataset.info.event_weights[name] for name in EVENT_TYPES])
    shape = (len(fitted.user_ids), items.height)
    interactions = sparse.csr_matrix((weights[fitted.types], (fitted.user_rows, fitted.items)), shape=shape)
    with stage("fitting baselines"):
        baselines: dict[str, Baseline] = {
            "popularity": Popularity(interactions),
            "item-knn": item_knn(interactions),
            "bm25": bm25(items),
        }
        if slow:
            baselines["als"] = Als(interactions)
            baselines["frozen encoder"] = FrozenEncoder(frozen_vectors(config.encoder, items))
        skipped: dict[str, str] = {}
        try:
            baselines["ease"] = Ease(interactions)
            baselines["ease + bm25"] = Sum(baselines["ease"], baselines["bm25"])
        except RecsysError as error:
            skipped = dict.fromkeys(("ease", "ease + bm25"), str(error))
    return baselines, skipped


def frozen_vectors(config: EncoderConfig, items: pl.DataFrame) -> np.ndarray:
    """Return the unit vectors `[N, H]` of the catalogue under the encoder as it was before training."""
    encoder, tokenizer = load_encoder(config)
    tokens = item_tokens(items, tokenizer, config, WORK / "tokens")
    precision = resolve_precision(config.precision, torch.device("cpu"))
    pooled = encode_all(encoder, FrozenPrefix(encoder, tokens, precision, limit_bytes=0))
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()
