"""What `recsys train --from MODEL` starts from, and whether an update is good enough to be registered.

In: a registered model or a bundle folder, and the dataset as it is now. Out: a checkpoint of its weights for the items of today, which
the fits start from (`Start.write_checkpoint`), and a `Verdict`: the updated interest model against the one it started from, on requests that
neither was fitted on. What an update learns from, and what is made anew, says `docs/decisions/015-updates.md`.

Shapes: N catalogue, H width of the text encoder, R requests.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from features.data.dataset import Dataset
from features.histories import TEST, VALID, EventLog
from recsys.arrays import Floats, Ints
from recsys.bundle import read_config, verify
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.events import moment_at
from recsys.metrics import Interval, bootstrap_interval
from recsys.models.encoder import load_encoder_folder
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import InterestModel
from recsys.progress import console
from recsys.registry import bundle_folder, resolve
from serving.loading import newest_event, rows_of
from training.interest.data import InterestData
from training.interest.trainer import ndcg_by_request, save_start, valid_scores

SHARED = {
    "encoder": ("name", "max_tokens", "trainable_layers"),
    "interest": ("layers", "heads", "id_residual"),
    "taste": ("width",),
}
"""The configuration keys that the weights depend on."""

ID_TABLE, TASTE, ENCODER = "id_table.", "taste.", "encoder."
"""How the names of the parts' weights begin."""

SAMPLES = 2000


@dataclass(frozen=True)
class Start:
    """The model that an update starts from."""

    model: str
    """`models:/NAME/VERSION`, or a folder."""
    folder: Path
    """Its bundle."""
    manifest: dict[str, Any]
    config: Config

    @classmethod
    def of(cls, model: str) -> "Start":
        """Return what `model` names now.

        Raises:
            RecsysError: there is no such model, or its bundle is damaged.
        """
        version = resolve(model, "--from")
        folder = bundle_folder(version, "--from")
        return cls(version, folder, verify(folder), read_config(folder))

    @cached_property
    def learned_until(self) -> int:
        """The time of the newest event that the weights were fitted on, in microseconds since 1970; 0 without a clock.

        Bundles of releases before 2026-11-29 do not say it: of them, the newest event that they know.
        """
        return int(self.manifest.get("fitted_until") or newest_event(self.folder))

    @property
    def moment(self) -> datetime:
        """`learned_until` as a time."""
        return moment_at(self.learned_until)

    @property
    def chain(self) -> list[str]:
        """The models that an update comes from, the nearest first: this one, and those that it was updated from."""
        return [self.model, *self.manifest.get("updated_from", [])]

    def continued(self, config: Config) -> Config:
        """Return `config` for a training that goes on from this model.

        Raises:
            RecsysError: its weights do not fit the configuration.
        """
        differing = [
            f"{section}.{key}={getattr(asked, key)} (it has {getattr(own, key)})"
            for section, keys in SHARED.items()
            for asked, own in [(getattr(config, section), getattr(self.config, section))]
            for key in keys
            if getattr(asked, key) != getattr(own, key)
        ]
        if differing:
            raise RecsysError(
                f"--from {self.model}: the weights do not fit {', '.join(differing)}; leave "
                f"{'this key' if len(differing) == 1 else 'these keys'} as in that model, or train without --from"
            )
        return config.model_copy(update={"data": config.data.model_copy(update={"learned_until": self.moment})})

    def refuse_other_data(self, dataset: Dataset, log: EventLog, rule: str) -> None:
        """Raise RecsysError where `log` does not go on from the model's data; note what is missing of them.

        `rule` is that by which `log` is split.
        """
        where, until = f"{dataset.folder} --from {self.model}", f"{self.moment:%Y-%m-%d %H:%M:%S} UTC"
        if not dataset.has_clock or rule == "leave-last":
            what = "are no clock" if not dataset.has_clock else "are split by data.split=leave-last"
            raise RecsysError(
                f"{where}: its events {what}, so nobody can tell which are new to the model; train without --from"
            )
        known = self._item_ids
        kept = int(known.is_in(dataset.items["item_id"].implode()).sum())
        if not kept:
            raise RecsysError(
                f"{where}: none of the model's {len(known):,} items, for example {known[0]}, is in the dataset; "
                "update with the data that it was trained on and what came later, or train without --from"
            )
        later = log.times > self.learned_until
        if not later.any():
            raise RecsysError(
                f"{where}: no event is later than {until}, up to when the model has learned; add newer events"
            )
        held = np.isin(log.segments, (VALID, TEST))
        if (held & ~later).any():
            raise RecsysError(
                f"{where}: {(held & ~later).sum():,} of {held.sum():,} events of valid and test are no later than {until}, up "
                "to when the model has learned; put them into train, or train without --from"
            )
        with np.load(self.folder / "facts.npz", allow_pickle=False) as facts:
            events = facts["event_times"]
        there = int((log.times <= events.max(initial=0)).sum())
        if there < len(events) or kept < len(known):
            console.print(
                f"note: {dataset.folder} has {there:,} of the {len(events):,} events and {kept:,} of the {len(known):,} items "
                f"that {self.model} knows; counts and sources forget the others",
                soft_wrap=True,
            )

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return load_file(self.folder / "interest.safetensors")

    @cached_property
    def _item_ids(self) -> pl.Series:
        return pl.read_parquet(self.folder / "items.parquet", columns=["item_id"])["item_id"]

    def taste(self) -> dict[str, Tensor] | None:
        """Return the weights of the taste model; None where there is none."""
        return _part(self._state, TASTE) or None

    def write_checkpoint(self, item_ids: pl.Series, folder: Path) -> None:
        """Write the weights for the catalogue `item_ids` `[N]` into `folder`, as a checkpoint that a fit can start from."""
        encoder, _ = load_encoder_folder(str(self.folder / "encoder"), trainable_layers=0)
        rows = torch.from_numpy(rows_of(self._item_ids, item_ids).copy())
        table = TorchRecIdTable.regrown(_part(self._state, ID_TABLE), rows)
        rest = {name: value for name, value in self._state.items() if not name.startswith((ID_TABLE, TASTE))}
        save_start(rest | _named(ENCODER, encoder.state_dict()) | _named(ID_TABLE, table), folder)


def _part(state: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): value for name, value in state.items() if name.startswith(beginning)}


def _named(beginning: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {beginning + name: value for name, value in state.items()}


@dataclass(frozen=True)
class Verdict:
    """An updated interest model against the one that it started from, on the requests of `valid`."""

    before: float
    """ndcg@10 of the model that it started from."""
    after: float
    """ndcg@10 of the updated one."""
    difference: Interval
    requests: int

    @classmethod
    def of(
        cls, before: InterestModel, after: InterestModel, texts: Floats, data: InterestData, users: Ints
    ) -> "Verdict":
        """Compare two models with one text encoder, whose vectors `texts` `[N, H]` are, on the requests of `users` `[R]`."""
        vectors = torch.from_numpy(texts)
        first, second = (ndcg_by_request(valid_scores(model, vectors, data), data) for model in (before, after))
        difference = bootstrap_interval(second - first, users, SAMPLES)
        return cls(float(first.mean()), float(second.mean()), difference, len(users))

    @property
    def worse(self) -> bool:
        """Whether the update is worse by more than the interval of the difference."""
        return self.difference.high < 0

    def line(self, model: str) -> str:
        """Return in one line what was measured and what follows."""
        change = f"{self.difference.value:+.4f} [{self.difference.low:+.4f}, {self.difference.high:+.4f}]"
        outcome = "worse, so everything is fitted from nothing" if self.worse else "the update is kept"
        return (
            f"update of {model}: ndcg@10 of the interest model on {self.requests:,} requests of valid {self.before:.4f} → "
            f"{self.after:.4f}, {change}: {outcome}"
        )

    def metrics(self) -> dict[str, float]:
        """Return what is logged with the run."""
        bounds = self.difference
        named = {"difference": bounds.value, "difference_low": bounds.low, "difference_high": bounds.high}
        named |= {"before": self.before, "after": self.after}
        return {f"update/valid_ndcg_at_10_{name}": value for name, value in named.items()}
