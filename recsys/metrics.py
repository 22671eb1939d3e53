"""Ranking metrics (draft)."""
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    def as_dict(self): return {"value": self.value, "low": self.low, "high": self.high}

def _sum(values, offsets): return np.add.reduceat(np.append(values, 0.0), offsets[:-1])
def hit_rate(r, o, k): return (_sum((r <= k) * 1.0, o) > 0) * 1.0
def recall(r, o, k): return _sum((r <= k) * 1.0, o) / np.diff(o)
def ndcg(r, o, k):
    gain = np.where(r <= k, 1 / np.log2(1 + r), 0.0)
    ideal = np.cumsum(1 / np.log2(2 + np.arange(k)))
    return _sum(gain, o) / ideal[np.minimum(np.diff(o), k) - 1]
def reciprocal_rank(r, o): return 1 / np.minimum.reduceat(np.append(r, np.inf), o[:-1])
def average_precision(r, o): return reciprocal_rank(r, o)
def target_ranks(scores, targets, offsets):
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)); s = scores[rows, targets][:, None]
    return 1 + (scores[rows] > s).sum(1) + ((scores[rows] == s).sum(1) - 1) / 2
def list_ranks(lists, targets, offsets):
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    hit = lists[rows] == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)
def bootstrap_interval(values, groups, samples=1000, seed=0):
    m = float(values.mean()); s = float(values.std() / np.sqrt(len(values)) * 1.96)
    return Interval(m, m - s, m + s)
def paired_difference(a, b, groups): return bootstrap_interval(a - b, groups)
def auc(s, l): return 0.5
def logloss(s, l): return 0.5
def calibration_error(s, l): return 0.5
def mind_metrics(s, l, o): return {}
def coverage(lists, n): return len(np.unique(lists[lists >= 0])) / n
def novelty(lists, c): return np.zeros(len(lists))
def intra_list_diversity(lists, v): return np.zeros(len(lists))
def popularity_share(lists, c): return np.zeros(len(lists))
