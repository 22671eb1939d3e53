"""The interest model and its objective, against plain formulas."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from features.histories import EARLY, LATE, VALID, EventLog
from recsys.config import Config, InterestConfig
from recsys.events import DEFAULT_EVENT_WEIGHTS, PURCHASE, TYPE_CODE
from recsys.models.encoder import FrozenPrefix, Tokens, load_encoder, resolve_precision, tokenize
from recsys.models.encoder_int8 import int8_encoder
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import HistoryBatch, InterestModel, UserTower, recency_buckets
from recsys.models.text_vectors import text_vectors
from tests.worlds import log_of, words
from training.interest.data import InterestData
from training.interest.objective import Batch, InterestObjective
from training.interest.ray_fit import InterestFit
from training.interest.sequences import prepare
from training.interest.text_vectors import catalogue_text_vectors
from training.interest.trainer import TEXT_VECTORS, InterestTrainer, load_trained, save_start

ITEMS = 30
CLICK = TYPE_CODE["click"]


def config_of(folder: str, trainable: int = 1, **interest: Any) -> Config:
    plain = {"dropout": 0.0, "id_dropout": 0.0, "batch_users": 4, "epochs": 3, "encoded_per_step": 16}
    encoder = {"name": folder, "trainable_layers": trainable, "precision": "fp32"}
    return Config.model_validate({"encoder": encoder, "interest": plain | interest})


def data_from(log: EventLog, tokens: Tokens, config: Config) -> InterestData:
    return prepare(log, (EARLY, LATE), tokens, weights=DEFAULT_EVENT_WEIGHTS, has_clock=True, config=config)


def trainer_of(data: InterestData, config: Config, seed: int = 3, encoder_from: Path | None = None) -> InterestTrainer:
    """Return a trainer that fine-tunes the layers that may be, unless it takes the encoder from elsewhere."""
    trainer = InterestTrainer(data, config, device=torch.device("cpu"), seed=seed, encoder_from=encoder_from)
    if config.encoder.trainable_layers and not encoder_from:
        trainer.start_tuning()
    return trainer


def data_of(config: Config) -> InterestData:
    """Return the data of 24 users who walk along the items, the last two steps in valid."""
    _, tokenizer = load_encoder(config.encoder)
    rows, splits = [], []
    for user in range(24):
        for step in range(3 + user % 5):
            kind = "purchase" if (user + step) % 3 == 0 else "click"
            rows.append((f"u{user}", f"i{(user + 2 * step) % ITEMS}", kind, 10 * step + user % 10))
            splits.append("train" if step < 2 + user % 4 else "valid")
    log = log_of(rows, ITEMS, splits)
    tokens = tokenize(words(ITEMS), tokenizer, 16)
    return data_from(log, tokens, config)


def objective_of(config: Config, seed: int = 0) -> tuple[InterestObjective, InterestData]:
    """Return an objective whose weights are all random, so that no term is zero by construction."""
    data = data_of(config)
    trainer = trainer_of(data, config, seed)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if not name.startswith("encoder") and parameter.ndim:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return trainer.objective, data


def first_batch(data: InterestData) -> Batch:
    return next(data.batches(0, 6, 0, 1))


def plain_softmax(objective: InterestObjective, batch: Batch, items: list[int], log_q: Tensor) -> float:
    """Return both heads' weighted mean losses, position by position."""
    model = objective.model
    vectors = model.item_vectors(objective.cache, torch.arange(len(objective.cache)))
    users = model.user_vectors(vectors[batch.history.items.clamp(min=0)], batch.history)
    losses: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for row, position in (batch.targets >= 0).nonzero().tolist():
        target, weight = int(batch.targets[row, position]), float(batch.weights[row, position])
        for head in (0, 1):
            logits = users[row, position, head] @ vectors[items].T / model.temperature
            corrected = torch.where(torch.tensor(items) == target, logits, logits - log_q)
            loss = float(torch.logsumexp(corrected, 0) - logits[items.index(target)])
            if head == 0 or int(batch.target_types[row, position]) == PURCHASE:
                losses[head].append((loss, weight))
    means = [sum(a * w for a, w in pairs) / sum(w for _, w in pairs) for pairs in losses.values()]
    return means[0] + objective.config.purchase_weight * means[1]


@torch.no_grad()
def test_the_full_softmax_equals_the_plain_formula(folder: str) -> None:
    """With the whole catalogue as negatives there is nothing to correct."""
    objective, data = objective_of(config_of(folder, trainable=0))
    batch = first_batch(data)
    expected = plain_softmax(objective, batch, list(range(ITEMS)), torch.zeros(ITEMS))
    assert float(objective(batch)) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_the_sampled_softmax_equals_the_plain_formula_with_log_q(folder: str) -> None:
    """Every negative's logit is lowered by the log of its probability of being sampled; the target's is not."""
    objective, data = objective_of(config_of(folder, trainable=0, catalogue_negatives=10))
    batch = first_batch(data)
    events = batch.items[batch.items >= 0]
    torch.manual_seed(5)
    items = objective._items_of_step(events.unique(), batch.impressions)
    expected = plain_softmax(objective, batch, items.tolist(), objective.log_inclusion(items, len(events)))
    torch.manual_seed(5)
    assert float(objective(batch)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("encoded", [False, True], ids=["cached", "encoded"])
def test_the_inclusion_probabilities_match_how_often_items_are_sampled(folder: str, encoded: bool) -> None:
    """Weighted by 1 / q, every item counts once on average, so that the denominator is unbiased."""
    objective, _ = objective_of(config_of(folder, catalogue_negatives=6, encoded_per_step=8))
    rng, draws, total = np.random.default_rng(0), 12, torch.zeros(ITEMS)
    shares = objective.frequencies.numpy()
    torch.manual_seed(0)
    for _ in range(4000):
        of_batch = torch.from_numpy(rng.choice(ITEMS, draws, p=shares)).unique()
        if encoded:
            items = objective._choose(of_batch)
            log_q = objective.log_inclusion_encoded(items, draws, len(of_batch))
        else:
            items = objective._items_of_step(of_batch, torch.empty(0, 0, dtype=torch.long))
            log_q = objective.log_inclusion(items, draws)
        total[items] += torch.exp(-log_q)
    assert torch.allclose(total / 4000, torch.ones(ITEMS), atol=0.15)
    assert total.mean() / 4000 == pytest.approx(1.0, abs=0.03)


def test_the_impression_loss_equals_the_plain_softmax_of_a_target_and_what_was_shown_with_it(folder: str) -> None:
    """It is added to the loss with its weight."""
    objective, data = objective_of(config_of(folder, trainable=0, impression_weight=0.5))
    batch = first_batch(data)
    impressions = torch.full((*batch.targets.shape, 2), -1)
    impressions[..., 0] = torch.where(batch.predicted, (batch.targets + 1) % ITEMS, -1)
    with torch.no_grad():
        extra = float(objective(replace(batch, impressions=impressions))) - float(objective(batch))
        model = objective.model
        vectors = model.item_vectors(objective.cache, torch.arange(ITEMS))
        users = model.user_vectors(vectors[batch.history.items.clamp(min=0)], batch.history)[:, :, 0]
    total = weight = 0.0
    for row, position in (batch.targets >= 0).nonzero().tolist():
        target = int(batch.targets[row, position])
        pair = users[row, position] @ vectors[[target, (target + 1) % ITEMS]].T / model.temperature.detach()
        own = float(batch.weights[row, position])
        total, weight = total + own * float(torch.logsumexp(pair, 0) - pair[0]), weight + own
    assert extra == pytest.approx(0.5 * total / weight, rel=1e-3)


def test_the_encoder_learns_from_fresh_vectors_and_the_rest_from_the_catalogue(folder: str) -> None:
    """The second softmax has gradients for the encoder only: freezing the encoder changes no other gradient."""
    grads = []
    for trainable in (0, 1):
        objective, data = objective_of(config_of(folder, trainable=trainable))
        objective(first_batch(data)).backward()
        grads.append({name: p.grad for name, p in objective.model.named_parameters() if p.grad is not None})
    tuned = [name for name in grads[1] if name.startswith("encoder")]
    assert tuned and all("layer.2." in name for name in tuned)
    assert float(sum(grads[1][name].abs().sum() for name in tuned)) > 0
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_a_step_encodes_each_item_once_and_at_most_as_many_as_configured(folder: str) -> None:
    """The cost of a step is bounded by the configuration."""
    objective, data = objective_of(config_of(folder, encoded_per_step=8))
    before = objective.cache.clone()
    with encoded_texts(objective.model) as counts:
        objective(first_batch(data))
    assert 0 < sum(counts) <= 8
    torch.testing.assert_close(objective.cache, before)


def test_a_part_of_a_step_has_texts_of_similar_length_and_none_is_left_out(folder: str) -> None:
    """Longer texts come later, and each text's vector goes back to its item."""
    objective, data = objective_of(config_of(folder))
    items = np.arange(ITEMS)[::-1]
    order, parts = objective._of_similar_length(items)
    np.testing.assert_array_equal(np.concatenate(parts)[order], items)
    lengths = data.tokens.lengths
    assert all(lengths[one].max() <= lengths[other].min() for one, other in pairwise(parts))


@contextmanager
def encoded_texts(model: InterestModel) -> Iterator[list[int]]:
    """Give the number of texts in each forward pass of the encoder's last layer while the body runs."""
    counts: list[int] = []
    hook = model.encoder.layers[-1].register_forward_hook(lambda layer, inputs, hidden: counts.append(len(hidden)))
    yield counts
    hook.remove()


def tower_of(width: int = 16) -> UserTower:
    torch.manual_seed(1)
    tower = UserTower(width, config_of("").interest).eval()
    torch.nn.init.normal_(tower.out.weight, std=0.1)
    return tower


def history_of(items: list[list[int]]) -> HistoryBatch:
    rows = torch.tensor(items)
    return HistoryBatch(rows, torch.full_like(rows, CLICK), torch.zeros_like(rows))


@torch.no_grad()
def test_a_position_knows_nothing_of_later_events() -> None:
    """Changing the last event changes no earlier prediction."""
    tower, table = tower_of(), torch.nn.functional.normalize(torch.randn(9, 16), dim=-1)
    first, second = history_of([[1, 2, 3, 4]]), history_of([[1, 2, 3, 8]])
    one, other = tower(table[first.items], first), tower(table[second.items], second)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    """A history has the same vector in a short and in a long batch."""
    tower, table = tower_of(), torch.nn.functional.normalize(torch.randn(9, 16), dim=-1)
    short, long = history_of([[1, 2, 3]]), history_of([[-1, -1, 1, 2, 3]])
    one = tower(table[short.items], short)[:, -1]
    torch.testing.assert_close(one, tower(table[long.items.clamp(min=0)], long)[:, -1])


@torch.no_grad()
def test_before_training_a_user_is_the_decayed_mean_of_the_history() -> None:
    """Training starts from a content-based recommender and not from noise."""
    tower = UserTower(16, config_of("").interest).eval()
    table = torch.nn.functional.normalize(torch.randn(9, 16), dim=-1)
    history = history_of([[1, 2, 3]])
    mean = torch.nn.functional.normalize(0.49 * table[1] + 0.7 * table[2] + table[3], dim=0)
    for head in (0, 1):
        torch.testing.assert_close(tower(table[history.items], history)[0, -1, head], mean)


def test_recency_buckets_are_logarithms_of_the_gap_in_seconds() -> None:
    """Bucket 0 has no event before; the others are 1 + floor(log2(1 + seconds))."""
    times = torch.tensor([[0, 5, 5, 8]]) * 1_000_000
    mask = torch.tensor([[False, True, True, True]])
    assert recency_buckets(times, mask, True).tolist() == [[0, 0, 1, 3]]
    assert recency_buckets(times, mask, False).tolist() == [[0, 0, 0, 0]]


def test_items_without_events_have_their_text_vector_alone(folder: str) -> None:
    """The ID residual is zero for unknown items and for those beyond the fitted catalogue."""
    text_encoder, tokenizer = load_encoder(config_of(folder).encoder)
    table = TorchRecIdTable(torch.tensor([True, False]), text_encoder.width)
    torch.nn.init.normal_(next(table.parameters()))
    assert table(torch.tensor([0])).abs().sum() > 0
    assert table(torch.tensor([1, 2, 99])).abs().sum() == 0
    model = InterestModel(text_encoder, config_of(folder).interest, table).eval()
    prefix = FrozenPrefix(text_encoder, tokenize(["lamp"], tokenizer, 8), "fp32")
    pooled = text_encoder.upper(*prefix.rows(np.array([0])))
    torch.testing.assert_close(
        model.item_vectors(pooled, torch.tensor([5])), torch.nn.functional.normalize(pooled, dim=-1)
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_visits_every_sequence_once_over_all_workers(folder: str, world_size: int) -> None:
    """Workers share the sequences; none is read twice, and all take the same number of steps."""
    data = data_of(config_of(folder))
    by_worker = [list(data.batches(3, 2, rank, world_size)) for rank in range(world_size)]
    visited = [target for batches in by_worker for batch in batches for target in batch.targets[batch.predicted]]
    whole = data.items[:, 1:][data.items[:, :-1] >= 0]
    assert sorted(map(int, visited)) == sorted(whole.tolist())
    assert {len(batches) for batches in by_worker} == {data.steps_per_epoch(2, world_size)}


def test_long_histories_are_cut_into_pieces_that_predict_every_event_once(folder: str) -> None:
    """Pieces overlap by one event, which is the last target of one and the first of the other's history."""
    config = config_of(folder, max_history=4)
    rows = [("a", f"i{step}", "click", step) for step in range(11)] + [("b", "i0", "click", 0), ("b", "i1", "click", 9)]
    log = log_of([*rows, ("b", "i2", "click", 20)], ITEMS, ["train"] * 13 + ["valid"])
    _, tokenizer = load_encoder(config.encoder)
    data = data_from(log, tokenize(words(ITEMS), tokenizer, 8), config)
    predicted = data.items[:, 1:][data.items[:, :-1] >= 0]
    assert sorted(predicted.tolist()) == sorted([*range(1, 11), 1])
    assert len(log.requests(VALID)) == len(data.valid_items) == 1


def test_saved_data_are_read_back_the_same(folder: str, tmp_path: Path) -> None:
    """Workers read what the driver wrote."""
    data = data_of(config_of(folder))
    data.save(tmp_path / "data.npz")
    again = InterestData.load(tmp_path / "data.npz")
    for name, array in vars(data).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_model(folder: str) -> None:
    """Two runs agree to the bit, also in what they recommend."""
    config, losses, scores = config_of(folder, learning_rate=3e-3), [], []
    for _ in range(2):
        trainer = trainer_of(data_of(config), config)
        losses.append([trainer.fit_epoch(epoch)["loss"] for epoch in range(3)])
        scores.append(np.concatenate(list(trainer.valid_scores())))
    assert losses[0] == losses[1]
    assert losses[0][2] < losses[0][0]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_resuming_from_a_checkpoint_equals_an_uninterrupted_run(folder: str, tmp_path: Path) -> None:
    """A run that was stopped after an epoch ends with the same weights, and they can be loaded."""
    config = config_of(folder)
    data = data_of(config)
    whole = trainer_of(data, config)
    whole.fit_epoch(0)
    whole.save(tmp_path)
    whole.fit_epoch(1)
    resumed = trainer_of(data, config, seed=99)
    resumed.seed = 3
    resumed.restore(tmp_path)
    resumed.fit_epoch(1)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)
    torch.testing.assert_close(resumed.objective.cache, whole.objective.cache)
    resumed.save(tmp_path)
    loaded = load_trained(tmp_path, config, torch.from_numpy(data.frequencies() > 0))
    torch.testing.assert_close(loaded.projection.weight, whole.model.projection.weight)


def encoder_of(trainer: InterestTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.encoder.state_dict().items()}


def test_the_text_encoder_is_as_it_was_until_tuning_starts_and_then_its_upper_layers_learn(folder: str) -> None:
    """So are the catalogue's text vectors, which follow the encoder at the end of an epoch."""
    config = config_of(folder, learning_rate=3e-3, encoder_learning_rate=3e-3)
    trainer = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=3)
    before, texts = encoder_of(trainer), trainer.objective.cache.clone()
    with encoded_texts(trainer.model) as counts:
        trainer.fit_epoch(0)
    assert counts == [] and not trainer.tuning
    torch.testing.assert_close(encoder_of(trainer), before, rtol=0, atol=0)
    torch.testing.assert_close(trainer.objective.cache, texts, rtol=0, atol=0)
    trainer.start_tuning()
    assert trainer.tuning
    trainer.fit_epoch(1)
    changed = {name for name, tensor in encoder_of(trainer).items() if not torch.equal(tensor, before[name])}
    assert changed and all("layer.2." in name for name in changed)
    assert not torch.allclose(trainer.objective.cache, texts)
    anew = text_vectors(trainer.model.encoder, trainer.data.tokens, "fp32")
    torch.testing.assert_close(trainer.objective.cache, anew)


@pytest.mark.parametrize("tuned", [False, True])
def test_a_restored_trainer_tunes_if_the_saved_one_did(folder: str, tmp_path: Path, tuned: bool) -> None:
    """And goes on as the saved one would have."""
    config = config_of(folder, learning_rate=3e-3, encoder_learning_rate=3e-3)
    data = data_of(config)
    saved, restored = (InterestTrainer(data, config, device=torch.device("cpu"), seed=3) for _ in range(2))
    saved.fit_epoch(0)
    if tuned:
        saved.start_tuning()
        saved.fit_epoch(1)
    saved.save(tmp_path)
    restored.restore(tmp_path)
    assert restored.tuning == tuned
    assert saved.fit_epoch(2) == restored.fit_epoch(2)
    torch.testing.assert_close(restored.model.state_dict(), saved.model.state_dict())
    torch.testing.assert_close(restored.objective.cache, saved.objective.cache)


def test_an_update_begins_with_the_scores_of_what_it_starts_from_and_knows_new_items(
    folder: str, tmp_path: Path
) -> None:
    """An item has an ID residual if it had one before or has events now."""
    config = config_of(folder, learning_rate=3e-3, encoder_learning_rate=3e-3)
    before = trainer_of(data_of(config), config)
    before.fit_epoch(0)
    state = {name: tensor.clone() for name, tensor in before.model.state_dict().items()}
    known = state["id_table.known"]
    known[0], known[1] = True, False
    save_start(state, tmp_path)
    data = replace(before.data, counts=np.where(np.arange(ITEMS) == 0, 0, 1 + before.data.counts))
    update = InterestTrainer(data, config, device=torch.device("cpu"), seed=9, start=tmp_path)
    assert not update.tuning and update.model.id_table is not None
    assert update.model.id_table.get_buffer("known").all()
    before.objective.refresh()
    for one, other in zip(update.valid_scores(), before.valid_scores(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_items_without_events_are_no_negatives_unless_they_were_shown(folder: str) -> None:
    """An item without events may be newer than the data; that nobody chose it says nothing."""
    objective, _ = objective_of(config_of(folder, catalogue_negatives=10_000))
    objective.known, unknown = objective.known[:-2], objective.known[-2:]
    of_batch = objective.known[:3]
    items = objective._items_of_step(of_batch, torch.tensor([-1]))
    assert not torch.isin(unknown, items).any()
    assert torch.isin(objective.known, items).all()
    assert torch.isin(unknown[:1], objective._items_of_step(of_batch, unknown[:1])).all()


def test_a_refit_takes_encoder_and_text_vectors_of_an_earlier_fit_and_encodes_nothing(
    folder: str, tmp_path: Path
) -> None:
    """Everything else is learnt anew, and the checkpoint holds the whole model."""
    config = config_of(folder, learning_rate=3e-3, encoder_learning_rate=3e-3)
    first = trainer_of(data_of(config), config)
    before = first.objective.cache.clone()
    first.fit_epoch(0)
    first.save(tmp_path)
    assert not torch.allclose(first.objective.cache, before)
    second = trainer_of(data_of(config), config, seed=4, encoder_from=tmp_path)
    with encoded_texts(second.model) as counts:
        second.fit_epoch(0)
        second.evaluate()
    assert counts == []
    anew = text_vectors(second.model.encoder, second.data.tokens, "fp32")
    torch.testing.assert_close(second.objective.cache, anew)
    torch.testing.assert_close(first.objective.cache, anew)
    assert not torch.allclose(second.model.projection.weight, first.model.projection.weight)
    (tmp_path / "second").mkdir()
    second.save(tmp_path / "second")
    loaded = load_trained(tmp_path / "second", config, torch.from_numpy(data_of(config).frequencies() > 0))
    for name, tensor in second.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, msg=name)


def test_vectors_that_are_handed_over_are_taken_and_not_encoded_again(folder: str, tmp_path: Path) -> None:
    """They are by the encoder that the fit starts with, so that they are those of a trainer that encodes."""
    config = config_of(folder)
    first = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=3)
    handed = first.objective.cache + 1
    np.save(tmp_path / TEXT_VECTORS, handed.numpy())
    second = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=3, vectors_from=tmp_path)
    torch.testing.assert_close(second.objective.cache, handed, rtol=0, atol=0)
    torch.testing.assert_close(encoder_of(second), encoder_of(first), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_catalogue_vectors_are_those_that_serving_gives_a_new_item_with_the_same_text(
    folder: str, tmp_path: Path, precision: Literal["fp32", "auto"]
) -> None:
    """After a fit of the encoder; `auto` is int8 where the machine is built for it, and bf16 or fp32 elsewhere."""
    config = config_of(folder, encoder_learning_rate=3e-3)
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update={"precision": precision})})
    trainer = trainer_of(data_of(config), config)
    trainer.fit_epoch(0)
    trainer.save(tmp_path)
    fit = InterestFit(1, 0.0, [], str(tmp_path), "cpu")
    encoder, tokens = load_trained(tmp_path, config, torch.ones(ITEMS, dtype=torch.bool)).encoder, trainer.data.tokens
    catalogue = catalogue_text_vectors(fit, encoder, precision, lambda: text_vectors(encoder, tokens, precision))
    rows = np.array([4, 9])
    ids, mask = tokens.padded(rows)
    new = Tokens(ids[mask].numpy().astype(np.int32), np.append(0, np.cumsum(mask.sum(1).numpy())))
    served, trained = text_vectors(encoder, new, precision).numpy(), trainer.objective.cache.numpy()
    in_int8 = int8_encoder(encoder, precision) is not None
    exact = resolve_precision(precision, torch.device("cpu")) == "fp32"  # all but the products in int8
    atol = 1e-5 if exact else 1e-3 if in_int8 else 1e-2
    np.testing.assert_allclose(served, catalogue[rows], atol=atol)
    np.testing.assert_allclose(catalogue, trained, atol=0.1)
    if in_int8:
        assert np.abs(served - trained[rows]).max() > (1e-4 if exact else 3e-3)  # the vectors of training would not do


def test_the_last_position_alone_is_what_all_positions_end_with() -> None:
    """Serving computes the last position only."""
    torch.manual_seed(0)
    tower = UserTower(16, InterestConfig(heads=2, layers=2)).eval()
    torch.nn.init.normal_(tower.out.weight)
    items = torch.tensor([[-1, -1, 4, 2], [1, 2, 3, 4], [-1, -1, -1, -1]])
    history = HistoryBatch(items, torch.ones_like(items), torch.ones_like(items))
    vectors = torch.nn.functional.normalize(torch.randn(3, 4, 16), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(tower.last(vectors, history), tower(vectors, history)[:, -1])


def test_a_batch_gives_what_each_request_gives_alone() -> None:
    """Neither the other requests nor the padding that they bring change a vector."""
    torch.manual_seed(0)
    tower = UserTower(64, InterestConfig()).eval()
    torch.nn.init.normal_(tower.out.weight, std=0.05)
    items = torch.where(torch.arange(12) < torch.arange(9)[:, None], -1, 1).expand(9, 12).contiguous()
    history = HistoryBatch(items, torch.zeros_like(items), torch.zeros_like(items))
    vectors = torch.nn.functional.normalize(torch.randn(9, 12, 64), dim=-1)
    with torch.inference_mode():
        together = tower.last(vectors, history)
        for row in range(9):
            own = (slice(row, row + 1), slice(row, None))  # the request alone, without padding
            alone = tower.last(vectors[own], HistoryBatch(items[own], history.types[own], history.recency[own]))
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
