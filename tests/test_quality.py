"""A floor of quality on real data: what no change may break without being noticed."""

from pathlib import Path

import pytest

from recsys.config import load_config
from tests.worlds import DATA
from training.pipeline import train

SETTINGS = ("encoder.trainable_layers=0", "encoder.max_tokens=32", "interest.epochs=1")
"""A short training, so that the test takes two minutes on 2 cores."""

FLOOR = 0.10
"""ndcg@10 on test; the best baseline, bm25, has .0859 (docs/quality)."""


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "amazon-industrial").exists(), reason="the real data are not next to the repository")
def test_lists_on_real_purchases_are_clearly_better_than_the_best_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even after a short training with a frozen encoder."""
    monkeypatch.chdir(tmp_path)
    trained = train(DATA / "amazon-industrial", load_config(None, SETTINGS), None, 0, "train+valid")
    assert trained.report is not None
    assert trained.report.metrics["ndcg@10"].value > FLOOR
