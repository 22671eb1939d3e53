"""Fit the ranker, of whichever kind the configuration names, and calibrate its probabilities."""

from collections.abc import Callable

import numpy as np

from recsys.models.rankers import Ranker
from serving.retrieval.retriever import Retriever
from training.ranker.calibration import calibration_lines, latest_rows
from training.ranker.choice import Lesson, choose_lessons
from training.ranker.data import RankingData
from training.ranker.linear import linear_scores
from training.ranker.neural import fit_network, network_scores
from training.ranker.trees import fit_trees


def fit_ranker(
    data: RankingData,
    retriever: Retriever,
    seed: int,
    shown: RankingData | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    on_lessons: Callable[[list[Lesson]], None] = lambda lessons: None,
) -> Ranker:
    """Fit the configured kind of ranker on `data`; the network, which also teaches trees, reports each pass to `on_epoch`.

    What the trees of each head learn from is reported to `on_lessons`.

    A ranker of the earlier requests shows on the latest ones what its log odds are worth: among their candidates, and
    among the impressions `shown` in them where there are any.
    """
    held, config = latest_rows(len(data)), retriever.config.ranker
    lessons = choose_lessons(data, config, seed) if config.kind == "lightgbm" else []
    on_lessons(lessons)
    before = _fit(data.rows(slice(0, held.start)), retriever, seed, lessons, lambda epoch: None)
    ranker = _fit(data, retriever, seed, lessons, on_epoch)
    lines = calibration_lines(before, data.rows(held))
    for fitted in (before, ranker):
        fitted.calibrate(lines)
    if shown is not None and len(shown):
        ranker.shown = calibration_lines(before, shown)
    return ranker


def _fit(
    data: RankingData, retriever: Retriever, seed: int, lessons: list[Lesson], on_epoch: Callable[[int], None]
) -> Ranker:
    """Fit the configured kind; trees have one of `lessons` per head."""
    config = retriever.config.ranker
    if config.kind == "torchrec":
        return fit_network(data, retriever, seed, on_epoch)
    direct = [lesson.direct for lesson in lessons]
    if all(direct):
        return fit_trees(data, config, seed, direct=direct)
    network = network_scores(fit_network(data, retriever, seed, on_epoch), data)
    linear = np.zeros_like(data.labels)
    for head, lesson in enumerate(lessons):
        if lesson.linear and not lesson.direct and data.labels[..., head].any():
            linear[..., head] = linear_scores(data, head)
    return fit_trees(data, config, seed, (network, linear), direct)
