"""A report and its details by hand, small enough to see what each picture has to say."""

import numpy as np

from recsys.metrics import Interval
from training.evaluation.details import (
    CalibrationBin,
    CatalogueMap,
    Details,
    Example,
    Shares,
    SourceCurve,
    Suggestion,
)
from training.evaluation.new_items import ALL, NewItems
from training.evaluation.report import Report, SourceRecall

SCRIPT = "<script>alert('x')</script> & $\\mug$ 杯"
"""A title as nobody should get it into a page."""

FITS = {
    "choose": [
        {"epoch": 1, "loss": 7.0, "ndcg@10": 0.04, "tuned": 0.0},
        {"epoch": 2, "loss": 6.0, "ndcg@10": 0.06, "tuned": 0.0},
        {"epoch": 3, "loss": 5.0, "ndcg@10": 0.05, "tuned": 0.0},
        {"epoch": 3, "loss": 9.0, "ndcg@10": 0.055, "tuned": 1.0},
    ],
    "refit": [{"epoch": 1, "loss": 7.1}, {"epoch": 2, "loss": 6.1}],
}


def around(value: float, by: float = 0.01) -> Interval:
    """Return `value` with an interval of `by` on both sides."""
    return Interval(value, value - by, value + by)


def full_report() -> Report:
    """Return a report that has something for every picture; titles, categories and names are hostile."""
    metrics = {name: around(0.2) for name in ("hr@10", "ndcg@10", "recall@50")}
    shares = Shares(around(0.6), around(0.3))
    return Report(
        dataset=SCRIPT,
        split="test",
        n=120,
        metrics=metrics | {"click_calibration_error": around(0.02, 0)},
        lists={"coverage@10": around(0.5, 0)},
        segments={
            "cold items": {"n": 20, "metrics": {"hr@10": around(0.1), "ndcg@10": around(0.05)}},
            "known items": {"n": 100, "metrics": {"hr@10": around(0.3), "ndcg@10": around(0.25)}},
        },
        baselines={"ease": {name: around(0.1) for name in metrics}, "oracle": {name: around(0.5) for name in metrics}},
        differences={"ease": around(0.1)},
        sources={"interest": SourceRecall(20, 0.5, 0.2), "all of them": SourceRecall(20, 0.5, 0.0)},
        new_items={ALL: NewItems(10, 1, 0.1, 0.05)},
        details=Details(
            sources={"interest": SourceCurve(around(0.5), {1: 0.1, 10: 0.4, 20: 0.5})},
            popularity={"0–10 %": shares, "none": shares},
            ages={ALL: Shares(around(0.05, 0.001), around(0.1, 0.001))},
            calibration={
                "click": [CalibrationBin(0.1 * step, around(0.1 * step)) for step in range(1, 5)],
                "purchase": [],
            },
            importance={"similarity_last": around(0.05), "source taste": around(0.02), "pages": around(0.001)},
            catalogue=CatalogueMap(
                np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32),
                [SCRIPT, "lamps", "", "mugs"] * 10,
                0.4,
            ),
            examples=[
                Example(
                    history=[("click", SCRIPT)],
                    chosen=[(SCRIPT, 1), ("a lamp", None)],
                    suggestions=[Suggestion(SCRIPT, True, SCRIPT, ["similarity_last"])],
                )
            ],
        ),
    )
