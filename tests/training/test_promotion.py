"""An alias moves to versions that pass, goes back, and every change is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys import names
from recsys.registry import bundle_folder, resolve
from tests.command_line import run
from tests.training.evaluation.test_compare import requests
from training import tracking
from training.evaluation.compare import MAIN

pytestmark = pytest.mark.slow


@pytest.fixture
def versions(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Register five runs: the first, one as good, a worse one, a damaged one, and one of other data."""
    monkeypatch.chdir(tmp_path)
    good = requests(0.5, 1)
    worse = good.with_columns(pl.when(pl.col("time") % 5 == 0).then(0.0).otherwise(pl.col(MAIN)).alias(MAIN))
    made: list[str] = []
    for frame, fingerprint in ((good, "f"), (requests(0.5, 2), "f"), (worse, "f"), (good, "f"), (good, "g")):
        tags = {"dataset.fingerprint": fingerprint * 16, "fit_on": "train"}
        run_id = tracking.start_run(None, {"dataset": "shop", "seed": len(made)}, tags)
        tracking.log_metrics(run_id, {"test_ndcg@10": frame.select(pl.mean(MAIN)).item()})
        tracking.log_requests(run_id, frame)
        made.append(tracking.register(run_id, tiny))
        tracking.end_run(run_id, finished=True)
    vectors = bundle_folder(names.version_name(made[3])) / "vectors.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    yield made


def test_versions_are_promoted_refused_and_brought_back(
    versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but a version that works and is not worse passes, unless a reason is given."""
    assert "no change is known" in run(capsys, "models", "rollback")[2]
    code, printed, _ = run(capsys, "models", "promote", "2")
    assert code == 0 and "no difference is real" in printed and "champion is version 2 now, after 1" in printed
    assert "already" in run(capsys, "models", "promote", "2")[1]
    for version, why in (("3", "worse than version 2 in ndcg@10"), ("4", "does not work"), ("5", "different data")):
        code, _, error = run(capsys, "models", "promote", version)
        assert code == 1 and why in error and "--force" in error
    assert resolve("models:/recsys@champion") == "models:/recsys/2"
    assert run(capsys, "models", "promote", "3", "--force", "a try of one day")[0] == 0
    assert resolve("models:/recsys@champion") == "models:/recsys/3"
    code, printed, _ = run(capsys, "models", "rollback")
    assert code == 0 and "champion is version 2 again" in printed
    assert resolve("models:/recsys@champion") == "models:/recsys/2"
    _, printed, _ = run(capsys, "models", "history")
    assert "a try of one day" in printed and "back from version 3" in printed
    assert run(capsys, "models", "promote", "3", "--alias", "challenger")[0] == 0
    assert "nothing has that name" in run(capsys, "models", "promote", "9")[2]
    code, _, error = run(capsys, "models", "promote", "1", "--max-mib", "0.01", "--max-ms", "1e6")
    assert code == 1 and "MiB is " in error and "more than the 0.01 allowed" in error and "ms a list" not in error


def test_runs_are_listed_shown_and_compared(versions: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By version, alias, or the beginning of an id; as tables and as JSON."""
    _, printed, _ = run(capsys, "runs", "list")
    assert "champion" in printed and printed.count("finished") == 5
    listed: list[dict[str, Any]] = json.loads(run(capsys, "runs", "list", "--json")[1])
    assert [one["versions"] for one in listed] == [[version] for version in reversed(versions)]
    _, printed, _ = run(capsys, "runs", "show", listed[0]["id"][:8])
    assert "version 5" in printed and "ndcg@10" in printed
    _, printed, _ = run(capsys, "runs", "compare", "champion", "2", "3")
    assert "version 2 against version 1 (champion)" in printed and "worse" in printed and "seed: 0 → 2" in printed
    [one] = json.loads(run(capsys, "runs", "compare", "1", "models:/recsys/3", "--json")[1])
    assert one["metrics"][MAIN]["real"] and one["metrics"][MAIN]["high"] < 0
    assert "name at least two" in run(capsys, "runs", "compare", "1")[2]
    assert "different data" in run(capsys, "runs", "compare", "1", "5")[2]
    _, printed, _ = run(capsys, "runs", "compare", "1", "5", "--force")
    assert "not paired" in printed
    _, printed, _ = run(capsys, "runs", "compare", "1", "2", "--examples", "2")
    assert "users whose lists changed most" in printed and printed.count("10 of 10 stay") == 2
    assert "version" in run(capsys, "models", "list")[1]


def test_a_store_without_runs_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none is made."""
    monkeypatch.chdir(tmp_path)
    assert "recsys train" in run(capsys, "runs", "list")[1]
    assert "recsys train" in run(capsys, "models", "list")[1]
    assert run(capsys, "models", "history")[0] == 0
    assert "nothing has that name" in run(capsys, "models", "promote", "1")[2]
    assert not list(tmp_path.iterdir())
