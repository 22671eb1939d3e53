"""The quality suite: what is kept is not measured again, and the report says what the figures say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.suite import __main__ as suite
from benchmarks.suite import measure
from benchmarks.suite.exchange import events_of, export, peers, requests_of
from benchmarks.suite.measure import INTEREST, OURS, RANKS, TYPED, kept, key_of, measure_training, measure_without
from benchmarks.suite.report import page, write
from benchmarks.suite.results import Results, verdict
from benchmarks.suite.sets import PUBLISHED, SETS, Places, best_published
from features.data.dataset import load_dataset
from features.histories import TEST
from features.simulator.shop import simulate
from recsys.config import Config, SourcesConfig, load_config
from recsys.errors import RecsysError
from recsys.metrics import Interval
from tests.worlds import log_of, tiny_encoder, write_dataset
from training.interest.ray_fit import InterestFit
from training.interest.trainer import InterestTrainer

MISS = np.inf


def results(ours: list[float], **others: list[float]) -> Results:
    """Return results of one target a request, ranked by ours and by others; every second target is cold."""
    count = len(ours)
    shared = {
        "users": np.arange(count),
        "offsets": np.arange(count + 1),
        "cold": np.arange(count) % 2 == 1,
        "repeat": np.zeros(count, bool),
        "length": np.full(count, 3),
        "skipped": np.array('{"ease": "too many items"}'),
    }
    sources = '{"interest": {"quota": 120, "recall": 0.5, "alone": 0.25}}'
    about = np.array(f'{{"date": "2026-11-28", "minutes": 2.0, "gib": 1.5, "sources": {sources}}}')
    ranks = np.array(ours, float)
    seed = {RANKS + OURS: ranks, RANKS + INTEREST: ranks, RANKS + TYPED: ranks, "about": about}
    rows = {RANKS + name: np.array(row, float) for name, row in others.items()}
    return Results(shared, [seed, seed], rows, {})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 0.01, "win"), (-0.01, 0.01, "tie"), (0.0, 0.01, "tie"), (-0.02, -0.001, "loss")],
)
def test_only_an_interval_wholly_on_one_side_of_zero_decides(low: float, high: float, expected: str) -> None:
    """A difference whose interval holds 0 is a tie."""
    assert verdict(Interval((low + high) / 2, low, high)) == expected


def test_the_best_other_is_chosen_without_the_oracle() -> None:
    """The oracle knows the tastes of a simulated shop, and is nobody's competitor."""
    figures = results([1, 2, 3, 4], weak=[MISS] * 4, strong=[2, 2, MISS, MISS], oracle=[1, 1, 1, 1])
    assert figures.best_other == "strong"
    assert set(figures.rows) == {OURS, INTEREST, TYPED, "weak", "strong", "oracle"}


def test_cold_items_are_measured_among_their_own_targets() -> None:
    """Of requests with a cold and a known target each, the cold hit rate counts the cold ones alone."""
    figures = results([1, MISS, 2, 3])
    cold = figures.interval(OURS, "hr@10", figures.shared["cold"])
    known = figures.interval(OURS, "hr@10", ~figures.shared["cold"])
    assert cold and known and (cold.value, known.value) == (0.5, 1.0)
    assert figures.interval(OURS, "hr@10", np.zeros(4, bool)) is None


def test_the_overview_counts_the_verdicts_of_all_pages(tmp_path: Path) -> None:
    """One win and one tie, written one after the other; every row of the tables has as many cells as its head."""
    write(tmp_path, "nemig", {"train+valid": results([1, MISS] * 20, ease=[MISS, 1] * 20)})
    write(tmp_path, "amazon-beauty", {"train": results([1] * 40, ease=[MISS] * 40)})
    overview, beauty, nemig = (
        (tmp_path / f"{name}.md").read_text("utf-8") for name in ("README", "amazon-beauty", "nemig")
    )
    assert "Wins / ties / losses: 1 / 1 / 0" in overview
    top = next(
        line for line in overview.splitlines() if line.startswith("| [amazon-beauty](amazon-beauty.md), train |")
    )
    assert "| 2026-11-28 | 40 | 1.0000 [1.0000, 1.0000] |" in top
    assert "| 1.0000 [1.0000, 1.0000] | win | GRAM 0.0890 / 0.0531 |" in top
    assert top in beauty
    assert "| ease | 0.0000 [0.0000, 0.0000] |" in beauty
    assert "ease left out: too many items" in beauty
    assert "| TIGER (its own paper) | 0.0648 | 0.0384 |" in beauty
    assert "## `--fit-on train+valid`" in nemig
    for block in "\n\n".join([overview, beauty, nemig]).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block


def test_published_rows_belong_to_sets_of_the_suite() -> None:
    """The best of each is the one with the highest ndcg@10; a set without published rows has none."""
    assert set(PUBLISHED) <= set(SETS)
    assert best_published("amazon-industrial") == ("MiniOneRec", 0.1586, 0.1167)
    assert best_published("amazon-beauty") == ("GRAM", 0.0890, 0.0531)
    assert best_published("nemig") is None


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """The second call reads the file of the first."""
    calls = iter([{"ranks": np.array([1.0, MISS])}])
    path = tmp_path / "set" / "measured.npz"
    first, second = (kept(path, lambda: next(calls)) for _ in range(2))
    np.testing.assert_array_equal(first["ranks"], second["ranks"])


def test_a_second_run_measures_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings and the baselines are measured once, ablations when they are asked for; other sets not at all."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data" / "nemig")
    canned = results([1, 2, 3, MISS], ease=[MISS] * 4)
    calls = []

    def answer(function: Callable[..., Any], *_: Any) -> dict[str, np.ndarray]:
        calls.append(function.__name__)
        return canned.shared | canned.others if function is measure.measure_baselines else canned.seeds[0]

    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["suite", "--data", "data", "--seeds", "2", "--out", "out", *options])
        suite.main()
        return "".join(path.read_text(encoding="utf-8") for path in sorted(Path("out").iterdir()))

    monkeypatch.setattr(suite, "in_own_process", answer)
    first = run("--only", "nemig")
    assert calls == ["measure_baselines", "measure_training", "measure_training"]
    assert run("--only", "nemig") == first and len(calls) == 3
    last = run("--only", "nemig", "--ablate")
    assert "without source lexical" in last
    assert calls[3:] == ["measure_without"] * len(SourcesConfig.model_fields)
    assert run("--only", "amazon-beauty") == last, "which is not at hand"
    run("--only", "nemig", "--fresh")
    assert len(calls) == 3 + len(SourcesConfig.model_fields) + 3


def test_a_failed_measurement_leaves_no_file(tmp_path: Path) -> None:
    """So that the next run measures it."""

    def fail() -> dict[str, np.ndarray]:
        raise RecsysError("stopped")

    with pytest.raises(RecsysError):
        kept(tmp_path / "measured.npz", fail)
    assert not list(tmp_path.iterdir())


def test_other_defaults_and_other_data_have_another_key(tmp_path: Path) -> None:
    """What was measured with them does not stand for today's."""
    one = load_dataset(write_dataset(tmp_path / "one"))
    other = load_dataset(write_dataset(tmp_path / "other", **{"dataset.json": '{"name": "other"}'}))
    changed = load_config(None, ("ranker.trees=200",))
    assert len({key_of(one, Config()), key_of(other, Config()), key_of(one, changed)}) == 3


def test_absent_data_say_which_option_names_them(tmp_path: Path) -> None:
    """A set that is not at hand is left out with a reason."""
    with pytest.raises(RecsysError, match="--data"):
        SETS["nemig"].find("nemig", Places(tmp_path))
    with pytest.raises(RecsysError, match="--movielens"):
        SETS["movielens-100k"].find("movielens-absent", Places(tmp_path))


def test_peers_read_events_before_test_and_what_was_known_at_each_request() -> None:
    """A purchase right after a click on the same item is one step of a sequence."""
    rows = [("u", "i0", "click", 0), ("u", "i0", "purchase", 1), ("u", "i1", "click", 2), ("u", "i2", "click", 3)]
    log = log_of(rows, 3, ["train", "train", "valid", "test"])
    events = events_of(log)
    assert events["item"].to_list() == [0, 1]
    assert events["part"].to_list() == ["train", "valid"]
    requests = requests_of(log, TEST)
    assert requests.rows() == [(0, [0, 1], [2])]


def test_peers_are_rows_of_their_fit(tmp_path: Path) -> None:
    """Files of `train+valid` are none of `train`."""
    dataset = load_dataset(write_dataset(tmp_path / "data"))
    export(dataset, ("train",), tmp_path / "peers")
    assert pl.read_parquet(tmp_path / "peers" / "test.parquet").height
    for fit_on in ("train", "train+valid"):
        np.savez(tmp_path / "peers" / f"{fit_on}-SASRec of {fit_on}.npz", ranks=np.array([1.0]))
    assert set(peers(tmp_path / "peers", "train")) == {f"{RANKS}SASRec of train"}


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fit the interest model for one epoch in this process."""

    def fit_here(data: Any, *_: Any, config: Config, seed: int, folder: Path, **others: Any) -> InterestFit:
        trainer = InterestTrainer(data, config, device=torch.device("cpu"), seed=seed)
        trainer.fit_epoch(0)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.save(folder)
        return InterestFit(1, None, [], str(folder), "cpu")

    for name in ("choose_epochs", "refit"):
        monkeypatch.setattr(f"training.fits.{name}", fit_here)
    yield


def test_a_training_and_its_ablation_rank_every_target(
    tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of a data set have a rank for the same targets, and the report can be made of them."""
    monkeypatch.chdir(tmp_path)
    simulate(tmp_path / "shop", users=150, items=100, seed=1)
    settings = (f"encoder.name={tiny_encoder(tmp_path / 'encoder')}", "encoder.trainable_layers=0", "ranker.trees=5")
    config = load_config(None, (*settings, "ranker.epochs=1", "encoder.precision=fp32"))
    shared = measure.measure_baselines(tmp_path / "shop", "train", config)
    trained = measure_training(tmp_path / "shop", "train", config, 0, tmp_path / "stages")
    less = config.model_copy(update={"sources": config.sources.model_copy(update={"lexical": 0})})
    without = measure_without(tmp_path / "shop", "train", less, 0, tmp_path / "stages")
    rows = {name: array for part in (shared, trained, without) for name, array in part.items() if RANKS in name}
    assert {len(ranks) for ranks in rows.values()} == {shared["offsets"][-1]}
    assert (without[RANKS + OURS] != trained[RANKS + OURS]).any()
    others = {name: array for name, array in shared.items() if name.startswith(RANKS)}
    ablated = {f"{RANKS}without source lexical": without[RANKS + OURS]}
    text = page("shop-2000", {"train": Results(shared, [trained], others, ablated)})
    for row in ("oracle", "ease + bm25", "with ranker.kind=torchrec", "without source lexical", "`impression_auc`"):
        assert row in text
