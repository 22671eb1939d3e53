"""All rankers by the names that the configuration uses."""

from recsys.rankers.base import Ranker, value
from recsys.rankers.blend import BlendRanker
from recsys.rankers.neural import TorchRecRanker
from recsys.rankers.trees import LightGbmRanker

RANKERS: dict[str, type[Ranker]] = {"torchrec": TorchRecRanker, "lightgbm": LightGbmRanker, "blend": BlendRanker}

__all__ = ["RANKERS", "BlendRanker", "LightGbmRanker", "Ranker", "TorchRecRanker", "value"]
