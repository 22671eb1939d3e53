"""Fits under Ray Train: two workers, early stopping, the refit, and the text vectors that they leave behind."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.config import Config
from recsys.errors import RecsysError
from recsys.models.encoder import load_encoder
from recsys.models.text_vectors import text_vectors
from tests.training.interest.small import choose, config_of, data_of, no_update, tokens_of
from training import encoding
from training.interest import ray_fit
from training.interest.ray_fit import NDCG, TUNED, VECTORS, InterestFit, refit, since_best
from training.interest.text_vectors import catalogue_text_vectors
from training.interest.trainer import TEXT_VECTORS, InterestTrainer, load_text_vectors, load_trained

CPU = torch.device("cpu")


def restored(fit: InterestFit, config: Config) -> InterestTrainer:
    """Return a trainer with the weights that `fit` kept."""
    trainer = InterestTrainer(data_of(config), config, device=CPU, seed=99)
    trainer.restore(Path(fit.checkpoint))
    return trainer


def scores_of(trainer: InterestTrainer) -> np.ndarray:
    return np.concatenate(list(trainer.valid_scores()))


@pytest.mark.slow
def test_two_workers_learn_what_one_learns_from_the_same_batches(folder: str, tmp_path: Path) -> None:
    """Workers share the sequences of a step and average their gradients.

    That is exact where chance decides nothing: no dropout, a frozen encoder, the whole catalogue as negatives. A worker that
    kept its gradients to itself would learn from half of the sequences; its scores are far from those of both.
    """
    one, two = config_of(folder, batch_users=8, epochs=2), config_of(folder, workers=2, batch_users=8, epochs=2)
    alone, together = choose(one, tmp_path / "one"), choose(two, tmp_path / "two")
    assert together.metric == pytest.approx(alone.metric, abs=1e-3)
    assert together.metric is not None and together.metric > 0
    exact, shared = scores_of(restored(alone, one)), scores_of(restored(together, two))
    np.testing.assert_allclose(shared, exact, atol=1e-4)
    half = InterestTrainer(data_of(two), two, device=CPU, seed=3, rank=0, world_size=2)
    for epoch in range(together.epochs):
        half.fit_epoch(epoch)
    assert np.abs(scores_of(half) - exact).max() > 1e-2


@pytest.mark.slow
def test_training_stops_after_patience_epochs_without_a_better_one_and_keeps_the_best(
    folder: str, tmp_path: Path
) -> None:
    """The learning rate is so high that epochs undo what the ones before them learnt."""
    config = config_of(folder, epochs=9, patience=1, learning_rate=0.1, batch_users=24)
    fit = choose(config, tmp_path)
    metrics = [epoch["ndcg@10"] for epoch in fit.history]
    assert fit.metric == max(metrics) and fit.epochs == metrics.index(max(metrics)) + 1
    assert len(metrics) == fit.epochs + 1 < 9
    assert restored(fit, config).evaluate() == pytest.approx(fit.metric, abs=1e-6)


@pytest.mark.parametrize(
    ("metrics", "epochs"),
    [([], 0), ([0.1], 0), ([0.1, 0.1], 1), ([0.1, 0.3, 0.2], 1), ([0.3, 0.1, 0.2], 2), ([0.3, 0.1, 0.4], 0)],
)
def test_an_equal_metric_is_no_progress_and_a_better_one_starts_the_count_anew(
    metrics: list[float], epochs: int
) -> None:
    """Patience counts the epochs since the best one."""
    assert since_best(metrics) == epochs


class ScriptedWorker(ray_fit._Worker):
    """Stands for a worker whose epochs have known metrics: those with a frozen encoder, then those that tune it."""

    def __init__(self, job: ray_fit._Job, frozen: list[float], tuned: list[float], history: ray_fit.Epochs) -> None:
        self.job, self.history, self.frozen, self.metrics = job, history, frozen, tuned
        self.tuning = any(epoch[TUNED] for epoch in history)

    def choose_epoch(self) -> None:
        metric = self.metrics[self.tuned] if self.tuning else self.frozen[len(self.history)]
        self.history = [*self.history, {NDCG: metric, TUNED: float(self.tuning)}]

    def tune_from_best(self) -> None:
        assert not self.tuning
        self.tuning = True


def epochs_of(
    frozen: list[float], tuned: list[float], monkeypatch: pytest.MonkeyPatch, done: int = 0, trainable: int = 1
) -> list[tuple[float, float]]:
    """Return metric and stage of the epochs that `_choosing_loop` runs, `done` of which ran before it was stopped."""
    config = config_of("", trainable, epochs=4, tuning_epochs=2, patience=2)
    job = ray_fit._Job(Path(), config, 0, epochs=6 if trainable else 4)
    past = [*((metric, 0.0) for metric in frozen), *((metric, 1.0) for metric in tuned)][:done]
    history: ray_fit.Epochs = [{NDCG: metric, TUNED: stage} for metric, stage in past]
    worker = ScriptedWorker(job, frozen, tuned, history)
    monkeypatch.setattr(ray_fit, "_Worker", lambda job: worker)
    ray_fit._choosing_loop({"job": job})
    return [(epoch[NDCG], epoch[TUNED]) for epoch in worker.history]


@pytest.mark.parametrize(
    ("frozen", "tuned"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6]),  # both stages run out of epochs
        ([0.1, 0.3, 0.2, 0.3], [0.5, 0.6]),  # an equal one is no progress
        ([0.3, 0.2, 0.1], [0.4, 0.4]),  # patience ends the first stage; tuning stops at the first that gains nothing
        ([0.3, 0.2, 0.1], [0.2]),  # the tuned epoch is worse than the best frozen one
    ],
)
def test_the_encoder_is_frozen_while_valid_gains_and_then_tuned_while_valid_gains(
    frozen: list[float], tuned: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever training is stopped and resumed."""
    expected = [*((metric, 0.0) for metric in frozen), *((metric, 1.0) for metric in tuned)]
    for done in range(len(expected) + 1):
        assert epochs_of(frozen, tuned, monkeypatch, done) == expected


def test_an_encoder_without_trainable_layers_is_never_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage is all that there is."""
    assert epochs_of([0.3, 0.2, 0.1], [], monkeypatch, trainable=0) == [(0.3, 0.0), (0.2, 0.0), (0.1, 0.0)]


def fit_with(frozen: list[float], tuned: list[float]) -> InterestFit:
    history: ray_fit.Epochs = [{NDCG: metric, TUNED: 0.0} for metric in frozen]
    return InterestFit(1, 0.0, [*history, *({NDCG: metric, TUNED: 1.0} for metric in tuned)], "", "cpu")


def test_a_fit_says_in_words_what_tuning_brought() -> None:
    """Nothing where it was not tried."""
    assert fit_with([0.1, 0.2], []).tuning == ""
    assert fit_with([0.1, 0.2], [0.25, 0.2]).tuning == "fine-tuning the text encoder, kept: 0.2000 to 0.2500"
    assert fit_with([0.1, 0.2], [0.15]).tuning == "fine-tuning the text encoder, not kept: 0.2000 to 0.1500"
    assert fit_with([0.1, 0.2], [0.2]).tuning == "fine-tuning the text encoder, not kept: 0.2000 to 0.2000"
    assert InterestFit(2, None, [{"epoch": 1, "loss": 0.1}], "", "cpu").tuning == ""


@pytest.mark.slow
def test_the_best_epoch_of_both_stages_is_kept_and_the_fit_says_which_it_was(folder: str, tmp_path: Path) -> None:
    """Tuning goes on from the best frozen epoch, and counts its passes from there."""
    config = config_of(folder, trainable=1, epochs=3, patience=1, batch_users=24, encoder_learning_rate=3e-3)
    fit = choose(config, tmp_path)
    stages = [epoch[TUNED] for epoch in fit.history]
    assert stages == sorted(stages) and set(stages) == {0.0, 1.0}
    metrics = [epoch[NDCG] for epoch in fit.history]
    frozen = metrics[: stages.index(1.0)]
    assert fit.metric == max(metrics)
    assert fit.history[len(frozen)]["epoch"] == 2 + frozen.index(max(frozen))
    kept = max(metrics) > max(frozen)
    assert ("not kept" in fit.tuning) != kept
    trainer = restored(fit, config)
    assert trainer.tuning == kept
    assert trainer.evaluate() == pytest.approx(fit.metric, abs=1e-6)


@pytest.mark.slow
def test_a_refit_by_two_workers_runs_the_chosen_epochs_with_the_chosen_encoder(folder: str, tmp_path: Path) -> None:
    """It keeps the last epoch, looks at no metric, and a second call returns the result without training."""
    config = config_of(folder, trainable=1, workers=2, batch_users=8, epochs=2, encoder_learning_rate=3e-3)
    chosen = choose(config, tmp_path / "choose")
    options: dict[str, Any] = {"config": config, "seed": 3, "folder": tmp_path / "refit", "update": no_update}
    fit = refit(data_of(config), chosen, **options)
    assert (fit.epochs, len(fit.history), fit.metric) == (chosen.epochs, chosen.epochs, None)
    assert refit(data_of(config), chosen, **options) == fit
    known = torch.from_numpy(data_of(config).frequencies() > 0)
    first, second = (load_trained(Path(one.checkpoint), config, known) for one in (chosen, fit))
    untrained, _ = load_encoder(config.encoder)
    for name, weight in first.encoder.state_dict().items():
        torch.testing.assert_close(second.encoder.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    tokens = tokens_of(config)
    vectors, again = (
        catalogue_text_vectors(each, one.encoder, "fp32", partial(text_vectors, one.encoder, tokens, "fp32"))
        for each, one in ((chosen, first), (fit, second))
    )
    np.testing.assert_array_equal(again, vectors)
    np.testing.assert_allclose(vectors, text_vectors(first.encoder, tokens, "fp32"), atol=1e-5)
    assert np.abs(vectors - text_vectors(untrained, tokens, "fp32").numpy()).max() > 1e-3


@pytest.mark.slow
def test_workers_start_with_the_vectors_of_a_catalogue_that_actors_encoded(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is frozen, so that the kept epoch still has them; without actors each worker would encode all of it."""
    monkeypatch.setattr(encoding, "TOKENS_ALONE", 0)
    config = config_of(folder, workers=2, epochs=1, batch_users=24)
    fit = choose(config, tmp_path)
    in_one_process = text_vectors(load_encoder(config.encoder)[0], tokens_of(config), "fp32").numpy()
    np.testing.assert_array_equal(np.load(tmp_path / VECTORS / TEXT_VECTORS), in_one_process)
    np.testing.assert_array_equal(load_text_vectors(Path(fit.checkpoint)), in_one_process)


@pytest.mark.parametrize("named", ["ftp://host/fits", "s4://bucket"])
def test_storage_that_is_none_is_refused_by_its_name(named: str) -> None:
    """In one line, before anything is fitted."""
    config = Config.model_validate({"compute": {"storage": named}})
    with pytest.raises(RecsysError, match=rf"^compute.storage={named}: .*; name s3://…, gs://… or a folder$"):
        ray_fit._storage(ray_fit._Job(Path("run/choose"), config, seed=3, epochs=1))


def test_fits_have_folders_of_their_own_in_storage(tmp_path: Path) -> None:
    """Named after the run and the stage."""
    config = Config.model_validate({"compute": {"storage": str(tmp_path)}})
    jobs = [ray_fit._Job(Path(f"/runs/{run}/choose"), config, seed=3, epochs=1) for run in "ab"]
    assert [ray_fit._storage(job)[0] for job in jobs] == [f"{tmp_path}/runs/{run}/choose" for run in "ab"]
