"""What each part of the interest model is worth: ndcg@10 of the interest model alone on `valid`.

In: a dataset folder. Out: a Markdown page with all that was measured so far, every variant against
its base.

    .venv/bin/python -m benchmarks.ablations ../shared/data/amazon-industrial
    .venv/bin/python -m benchmarks.ablations shop --only "no event types"

What was measured is kept in `.recsys/ablations`, so that a stopped run goes on.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from features.data.dataset import load_dataset
from features.histories import EARLY, LATE
from recsys.atomic import atomic_file
from recsys.config import load_config
from recsys.models.encoder import FrozenPrefix
from recsys.progress import console
from training.fits import interest_data
from training.interest.objective import Batch, InterestObjective
from training.interest.trainer import InterestTrainer
from training.prepared import Prepared, prepare_dataset

WORK = Path(".recsys/ablations")
FROZEN, DEFAULT = "default with a frozen encoder", "default"
PRETRAINING_RATE = 2e-5
PRETRAINING_BATCH = 32

INTRODUCTION = """The interest model alone: ndcg@10 on `valid`, whole catalogue ranked, fitted on `train`, the best of
`interest.epochs` epochs (of the base as well), printed by `python -m benchmarks.ablations DATASET`.
Variants of the text encoder are set against the default, all others against the default with a
frozen encoder, which is quicker. Differences between seeds of one variant are the noise."""

Change = Callable[[InterestTrainer, Prepared], None]


class LastPosition(InterestObjective):
    """Only the last event of a sequence is a target."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        weights = torch.zeros_like(batch.weights)
        weights[:, -1] = batch.weights[:, -1]
        return super().forward(replace(batch, weights=weights))


class WithoutLogQ(InterestObjective):
    """Sampled negatives count as they come."""

    def log_inclusion(self, items: Tensor, draws: int) -> Tensor:
        """Return no correction, `[S]`."""
        return torch.zeros(len(items))


class NegativesOfTheCatalogue(InterestObjective):
    """Items without events are negatives like all others."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.known = torch.arange(len(self.cache))


class NearNegatives(InterestObjective):
    """Half of the negatives are those whose texts are nearest to the items of the batch."""

    def _items_of_step(self, of_batch: Tensor, shown: Tensor) -> Tensor:
        half = self.config.catalogue_negatives // 2
        if 2 * half >= len(self.known):
            return super()._items_of_step(of_batch, shown)
        return torch.cat([of_batch, shown[shown >= 0], self._draw(half), self._near(of_batch, half)]).unique()

    def _choose(self, of_batch: Tensor) -> Tensor:
        chosen = super()._choose(of_batch)
        return torch.cat([chosen, self._near(chosen, len(chosen) // 2)]).unique()

    def _near(self, items: Tensor, count: int) -> Tensor:
        """Return `count` of the ten nearest items with events to each of `items`."""
        if not len(items):
            return items
        units = F.normalize(self.cache, dim=-1)
        near = self.known[(units[items] @ units[self.known].T).topk(11).indices[:, 1:]].flatten()
        return near[torch.randperm(len(near))[:count]]


def objective(kind: type[InterestObjective]) -> Change:
    """Return a change that trains by another objective."""

    def change(trainer: InterestTrainer, prepared: Prepared) -> None:
        old = trainer.objective
        trainer.objective = kind(trainer.model, old.prefix, old.frequencies.numpy(), trainer.config.interest)
        trainer.objective.refresh()
        trainer.step_module = trainer.objective

    return change


def two_seeds(trainer: InterestTrainer, prepared: Prepared) -> None:
    """Add the scores of a second model, trained with another seed."""
    other = InterestTrainer(trainer.data, trainer.config, device=trainer.device, seed=trainer.seed + 100)
    if trainer.tuning:
        other.start_tuning()
    fit_epoch, valid_scores = trainer.fit_epoch, trainer.valid_scores

    def fit_both(epoch: int) -> dict[str, float]:
        other.fit_epoch(epoch)
        return fit_epoch(epoch)

    trainer.fit_epoch = fit_both  # type: ignore[method-assign,assignment]
    trainer.valid_scores = lambda: map(np.add, valid_scores(), other.valid_scores())  # type: ignore[method-assign]


def mean_of_epochs(trainer: InterestTrainer, prepared: Prepared) -> None:
    """Evaluate the mean of the weights after all epochs so far (Izmailov et al. 2018)."""
    states: list[dict[str, Tensor]] = []
    evaluate = trainer.evaluate

    def evaluate_mean() -> float:
        now = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        states.append({name: tensor for name, tensor in now.items() if tensor.is_floating_point()})
        mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
        trainer.model.load_state_dict(mean, strict=False)
        metric = evaluate()
        trainer.model.load_state_dict(now)
        return metric

    trainer.evaluate = evaluate_mean  # type: ignore[method-assign]


def fixed(*names: str) -> Change:
    """Return a change that leaves parameters as they are at the start (embeddings: at zero)."""

    def change(trainer: InterestTrainer, prepared: Prepared) -> None:
        for name, parameter in trainer.model.named_parameters():
            if any(part in name for part in names):
                parameter.requires_grad_(False)
                if "embedding" in name:
                    parameter.zero_()

    return torch.no_grad()(change)


def masked_words(trainer: InterestTrainer, prepared: Prepared) -> None:
    """Go on with masked-language-model training on the catalogue's texts, for one epoch (Devlin et al. 2019)."""
    encoder, tokens = trainer.model.encoder, prepared.tokens
    head = BertOnlyMLMHead(encoder.model.config)
    words: Any = encoder.model.get_input_embeddings()  # type: ignore[operator]
    head.predictions.decoder.weight = words.weight

    def loss_of(rows: np.ndarray) -> Tensor:
        ids, mask = tokens.padded(rows)
        hidden_words = (torch.rand(ids.shape) < 0.15) & mask
        masked = ids.masked_fill(hidden_words, prepared.tokenizer.mask_token_id)
        hidden = encoder.model(input_ids=masked, attention_mask=mask.long()).last_hidden_state  # type: ignore[operator]
        return F.cross_entropy(head(hidden[hidden_words]), ids[hidden_words].long())

    _pretrain(trainer, np.arange(len(tokens)), loss_of, list(head.parameters()))


def visited_pairs(trainer: InterestTrainer, prepared: Prepared) -> None:
    """Draw the texts of items together that users went between, for one epoch (InfoNCE; van den Oord et al. 2018)."""
    items = trainer.data.items
    here, there = items[:, :-1].ravel(), items[:, 1:].ravel()
    kept = (here >= 0) & (here != there)
    pairs = np.stack([here[kept], there[kept]], 1)

    def loss_of(rows: np.ndarray) -> Tensor:
        sides = [trainer.model.encoder(*prepared.tokens.padded(pairs[rows, side])) for side in (0, 1)]
        one, other = (F.normalize(side, dim=-1) for side in sides)
        return F.cross_entropy(one @ other.T / 0.05, torch.arange(len(rows)))

    _pretrain(trainer, np.arange(len(pairs)), loss_of, [])


def _pretrain(
    trainer: InterestTrainer, rows: np.ndarray, loss_of: Callable[[np.ndarray], Tensor], further: list[Tensor]
) -> None:
    """Train the encoder's upper layers by `loss_of` some rows, then encode the catalogue anew."""
    tuned = [parameter for parameter in trainer.model.encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*tuned, *further], lr=PRETRAINING_RATE)
    order = np.random.default_rng(trainer.seed).permutation(rows)
    for start in range(0, len(order), PRETRAINING_BATCH):
        loss = loss_of(order[start : start + PRETRAINING_BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer.objective.refresh()


def titles_alone(prepared: Prepared) -> Prepared:
    """Return the dataset with nothing but titles to read."""
    items = prepared.dataset.items
    bare = [pl.lit(None, items.schema[name]).alias(name) for name in ("description", "tags", "brand", "category")]
    dataset = replace(prepared.dataset, items=items.with_columns(bare))
    return prepare_dataset(dataset, prepared.config, prepared.seed)


def second_view(trainer: InterestTrainer, prepared: Prepared) -> None:
    """Read an item by its title alone in half of the steps that encode it."""
    whole, bare = trainer.objective.prefix, titles_alone(prepared).tokens
    titles = FrozenPrefix(trainer.model.encoder, bare, whole.precision)
    encode = trainer.objective._encode

    def either(items: Tensor) -> Tensor:
        trainer.objective.prefix = titles if torch.rand(()) < 0.5 else whole
        vectors = encode(items)
        trainer.objective.prefix = whole
        return vectors

    trainer.objective._encode = either  # type: ignore[method-assign]


@dataclass(frozen=True)
class Variant:
    """A departure from a base."""

    settings: tuple[str, ...] = ()
    change: Change = field(default=lambda trainer, prepared: None)
    base: str = FROZEN
    data: Callable[[Prepared], Prepared] = field(default=lambda prepared: prepared)


SAMPLED = ("interest.catalogue_negatives=256",)
VARIANTS = {
    FROZEN: Variant(),
    "the last position alone is a target": Variant(change=objective(LastPosition)),
    "256 negatives instead of all, with logQ": Variant(SAMPLED),
    "256 negatives instead of all, without logQ": Variant(SAMPLED, objective(WithoutLogQ)),
    "negatives of the batch alone, with logQ": Variant(("interest.catalogue_negatives=0",)),
    "items without events are negatives": Variant(change=objective(NegativesOfTheCatalogue)),
    "no ID residual": Variant(("interest.id_residual=false",)),
    "no ID dropout": Variant(("interest.id_dropout=0.0",)),
    "ID dropout 0.6": Variant(("interest.id_dropout=0.6",)),
    "no projection": Variant(change=fixed("projection")),
    "fixed temperature 0.1": Variant(change=fixed("log_temperature")),
    "no event types": Variant(change=fixed("type_embedding")),
    "no recency": Variant(change=fixed("recency_embedding")),
    "256 negatives, half of them near the batch's items": Variant(SAMPLED, objective(NearNegatives)),
    "mean of the epochs' weights": Variant(change=mean_of_epochs),
    "two seeds' scores added": Variant(change=two_seeds),
    DEFAULT: Variant(base=DEFAULT),
    "a third of the encoded items near the others": Variant(change=objective(NearNegatives), base=DEFAULT),
    "one layer fine-tuned": Variant(("encoder.trainable_layers=1",), base=DEFAULT),
    "all layers fine-tuned": Variant(("encoder.trainable_layers=6",), base=DEFAULT),
    "texts of 32 tokens": Variant(("encoder.max_tokens=32",), base=DEFAULT),
    "texts of 128 tokens": Variant(("encoder.max_tokens=128",), base=DEFAULT),
    "titles alone": Variant(base=DEFAULT, data=titles_alone),
    "titles as a second view": Variant(change=second_view, base=DEFAULT),
    "masked words first": Variant(change=masked_words, base=DEFAULT),
    "co-visited pairs first": Variant(change=visited_pairs, base=DEFAULT),
}


def measure(folder: Path, name: str, seed: int) -> None:
    """Write ndcg@10 on `valid` after each epoch to the variant's file, unless it is there."""
    variant = VARIANTS[name]
    dataset = load_dataset(folder)
    measured = WORK / dataset.info.name / f"{name} {seed}.json"
    if measured.exists():
        return
    frozen = ("encoder.trainable_layers=0",) if variant.base == FROZEN else ()
    prepared = variant.data(prepare_dataset(dataset, load_config(None, frozen + variant.settings), seed))
    trainer = InterestTrainer(
        interest_data(prepared, (EARLY, LATE)), prepared.config, device=torch.device("cpu"), seed=seed
    )
    if prepared.config.encoder.trainable_layers:
        trainer.start_tuning()
    variant.change(trainer, prepared)
    epochs = []
    for epoch in range(prepared.config.interest.epochs):
        trainer.fit_epoch(epoch)
        epochs.append(trainer.evaluate())
    measured.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(measured) as temporary:
        temporary.write_text(json.dumps(epochs), encoding="utf-8")


def best_epochs(dataset: Path, name: str) -> dict[int, float]:
    """Return the best epoch's ndcg@10 of every seed that was measured."""
    files = {int(path.stem.rsplit(" ", 1)[1]): path for path in dataset.glob(f"{name} [0-9]*.json")}
    return {seed: max(json.loads(files[seed].read_text(encoding="utf-8"))) for seed in sorted(files)}


def table(dataset: Path) -> list[str]:
    """Return the rows of all that was measured of a dataset; differences are over the seeds of both."""
    lines = ["| variant | ndcg@10 on valid, seed 0 on | against its base |", "|---|---|---|"]
    for name, variant in VARIANTS.items():
        values, base = best_epochs(dataset, name), best_epochs(dataset, variant.base)
        both = values.keys() & base.keys()
        if both:
            gap = np.mean([values[seed] - base[seed] for seed in both])
            shown = "" if name == variant.base else f"{gap:+.4f}"
            lines.append(f"| {name} | {', '.join(f'{value:.4f}' for value in values.values())} | {shown} |")
    return lines


def main() -> None:
    """Measure what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="variants whose names contain this, and their bases")
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    options = parser.parse_args()
    chosen = [name for name in VARIANTS if options.only in name]
    names = dict.fromkeys(part for name in chosen for part in (VARIANTS[name].base, name))
    for done, name in enumerate(names, start=1):
        for seed in range(options.seeds):
            measure(options.dataset, name, seed)
        console.print(f"{done} of {len(names)}: {name}", soft_wrap=True)
    lines = ["# Ablations", "", *INTRODUCTION.splitlines()]
    for dataset in sorted(WORK.iterdir()):
        lines += ["", f"## {dataset.name}", "", *table(dataset)]
    with atomic_file(options.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
