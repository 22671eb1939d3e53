"""Fit the ranker, of whichever kind the configuration names."""

from collections.abc import Callable

from recsys.models.rankers import Ranker
from serving.retrieval.retriever import Retriever
from training.ranker.data import RankingData
from training.ranker.neural import fit_network
from training.ranker.trees import fit_trees


def fit_ranker(
    data: RankingData, retriever: Retriever, seed: int, on_epoch: Callable[[int], None] = lambda epoch: None
) -> Ranker:
    """Fit the configured kind of ranker on `data`; a network reports each pass to `on_epoch`, trees need none."""
    config = retriever.config.ranker
    if config.kind == "lightgbm":
        return fit_trees(data, config, seed)
    return fit_network(data, retriever, seed, on_epoch)
