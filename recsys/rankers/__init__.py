"""All rankers by the names that the configuration uses."""

from recsys.rankers.base import Ranker, value
from recsys.rankers.neural import TorchRecRanker
from recsys.rankers.trees import LightGbmRanker

RANKERS: dict[str, type[Ranker]] = {"torchrec": TorchRecRanker, "lightgbm": LightGbmRanker}

__all__ = ["RANKERS", "LightGbmRanker", "Ranker", "TorchRecRanker", "value"]
