"""All rankers by the names that the configuration uses."""

from recsys.models.rankers.base import Lines, Ranker, value
from recsys.models.rankers.neural import TorchRecRanker
from recsys.models.rankers.trees import LightGbmRanker

RANKERS: dict[str, type[Ranker]] = {"torchrec": TorchRecRanker, "lightgbm": LightGbmRanker}

__all__ = ["RANKERS", "LightGbmRanker", "Lines", "Ranker", "TorchRecRanker", "value"]
