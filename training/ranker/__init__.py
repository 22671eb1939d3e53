"""Fit the ranker, of whichever kind the configuration names, and calibrate its probabilities."""

from collections.abc import Callable

from recsys.models.rankers import Ranker
from serving.retrieval.retriever import Retriever
from training.ranker.calibration import calibration_lines, latest_rows
from training.ranker.data import RankingData
from training.ranker.neural import fit_network, network_scores
from training.ranker.trees import fit_trees


def fit_ranker(
    data: RankingData,
    retriever: Retriever,
    seed: int,
    shown: RankingData | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Ranker:
    """Fit the configured kind of ranker on `data`; the network, which also teaches the trees, reports each pass to `on_epoch`.

    A ranker of the earlier requests shows on the latest ones what its log odds are worth: among their candidates, and
    among the impressions `shown` in them where there are any.
    """
    held = latest_rows(len(data))
    before = _fit(data.rows(slice(0, held.start)), retriever, seed, lambda epoch: None)
    ranker = _fit(data, retriever, seed, on_epoch)
    lines = calibration_lines(before, data.rows(held))
    for fitted in (before, ranker):
        fitted.calibrate(lines)
    if shown is not None and len(shown):
        ranker.shown = calibration_lines(before, shown)
    return ranker


def _fit(data: RankingData, retriever: Retriever, seed: int, on_epoch: Callable[[int], None]) -> Ranker:
    network = fit_network(data, retriever, seed, on_epoch)
    if retriever.config.ranker.kind == "torchrec":
        return network
    return fit_trees(data, retriever.config.ranker, seed, network_scores(network, data))
