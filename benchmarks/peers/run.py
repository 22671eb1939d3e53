"""Peers from well-kept libraries on the suite's splits, in an environment of their own.

    benchmarks/peers/.venv/bin/python -m benchmarks.peers.run

In: what `python -m benchmarks.suite --export` wrote. Out: `FIT-MODEL.npz` beside it, with the ranks of the targets of `test`.

Every model has the same budget: four settings, each fitted on `train` until ndcg@10 on 2,000 requests of `valid` has not risen
for three epochs, or the minutes are over. The best setting, with its number of epochs and seen items kept or left out, whichever
`valid` preferred, is fitted again on what `--fit-on` names and answers `test`.

Shapes: R requests, T targets, K list length, N catalogue.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pytorch_lightning
from implicit.bpr import BayesianPersonalizedRanking
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers
from scipy import sparse

from recsys.atomic import atomic_file
from recsys.metrics import list_ranks, ndcg

K = 100
"""Items of a list; a target further down counts as missed, as with ours."""
CHOICE_REQUESTS = 2000
"""Requests of `valid` that choices are made by, drawn at random."""
PATIENCE = 3
SHORTEST, LONGEST = 10, 50
"""Events of a sequence: as many as 95 % of the users have, between these."""


@dataclass(frozen=True)
class Requests:
    """R moments at which a user chose something."""

    users: np.ndarray
    """`[R]`"""
    histories: list[np.ndarray]
    """Items before the moment, the latest last."""
    targets: np.ndarray
    """`[T]`"""
    offsets: np.ndarray
    """`[R + 1]`"""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Requests":
        """Read a table of requests."""
        counts = frame["targets"].str.len()
        offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        return cls(
            frame["user"].to_numpy(), list(frame["history"]), np.concatenate(frame["targets"].to_list()), offsets
        )

    def ranks(self, lists: np.ndarray) -> np.ndarray:
        """Return the targets' ranks `[T]` in lists `[R, K]`."""
        return list_ranks(lists, self.targets, self.offsets)

    def gain(self, lists: np.ndarray) -> float:
        """Return ndcg@10 of lists `[R, K]`."""
        return float(ndcg(self.ranks(lists), self.offsets, 10).mean())


class Peer(Protocol):
    """A model in training."""

    def fit_epoch(self) -> None:
        """Go on for one epoch."""

    def lists(self, requests: Requests, leave_seen_out: bool) -> np.ndarray:
        """Return lists `[R, K]`, -1 padded; a request of which the model knows nothing has an empty one."""
        ...


class Transformer:
    """RecTools' SASRecModel; users with more events than a sequence holds are several sequences."""

    def __init__(self, events: pd.DataFrame, **settings: Any) -> None:
        pytorch_lightning.seed_everything(0, verbose=False)
        length = int(np.clip(events.groupby("user").size().quantile(0.95), SHORTEST, LONGEST))
        left = events.groupby("user").cumcount(ascending=False)  # events of the user after this one
        pieces = events["user"] * (int(left.max()) + 1) + left // (length + 1)
        self.data = interactions(pieces, events["item"], -left)
        self.model = SASRecModel(session_max_len=length, **settings)

    def fit_epoch(self) -> None:
        self.model.fit_partial(self.data, min_epochs=1, max_epochs=1)

    def lists(self, requests: Requests, leave_seen_out: bool) -> np.ndarray:
        lengths = [len(history) for history in requests.histories]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        data = interactions(rows, np.concatenate(requests.histories), np.arange(len(rows)))
        found = self.model.recommend(
            np.unique(rows), data, k=K, filter_viewed=leave_seen_out, on_unsupported_targets="ignore"
        )
        lists = np.full((len(lengths), K), -1)
        lists[found["user_id"], found["rank"] - 1] = found["item_id"]
        return lists


class Bpr:
    """implicit's Bayesian personalised ranking; its users are those of its fit, whatever came after."""

    iterations = 5
    """Passes over the events in what counts as an epoch here."""

    def __init__(self, events: pd.DataFrame, users: int, items: int, **settings: Any) -> None:
        ones = np.ones(len(events), np.float32)
        self.seen = sparse.csr_matrix((ones, (events["user"], events["item"])), shape=(users, items))
        random = np.random.default_rng(0)  # one generator for all epochs
        self.model = BayesianPersonalizedRanking(
            iterations=self.iterations, num_threads=1, random_state=random, **settings
        )

    def fit_epoch(self) -> None:
        self.model.fit(self.seen, show_progress=False)

    def lists(self, requests: Requests, leave_seen_out: bool) -> np.ndarray:
        lengths = [len(history) for history in requests.histories]
        rows, items = np.repeat(np.arange(len(lengths)), lengths), np.concatenate(requests.histories)
        past = sparse.csr_matrix((np.ones(len(rows)), (rows, items)), shape=(len(lengths), self.seen.shape[1]))
        lists, _ = self.model.recommend(requests.users, past, N=K, filter_already_liked_items=leave_seen_out)
        known = np.diff(self.seen.indptr)[requests.users] > 0
        return np.where(known[:, None], lists, -1)


def interactions(users: Any, items: Any, order: Any) -> Dataset:
    """Return RecTools' table of interactions."""
    times = pd.to_datetime(np.asarray(order), unit="s")
    frame = pd.DataFrame({"user_id": np.asarray(users), "item_id": np.asarray(items), "weight": 1.0, "datetime": times})
    return Dataset.construct(frame)


SIZES = ({"n_factors": 64}, {"n_factors": 128}, {"n_factors": 256}, {"n_factors": 128, "dropout_rate": 0.5})
ESASREC = {"transformer_layers_type": LiGRLayers, "loss": "sampled_softmax", "n_negatives": 256}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SASRec of RecTools": list(SIZES),
    "eSASRec of RecTools": [ESASREC | size for size in SIZES],
    "BPR of implicit": [{"factors": size, "learning_rate": rate} for size in (64, 128) for rate in (0.01, 0.05)],
}
"""What is tried of each model, the rest as the library has it; eSASRec is SASRec with LiGR layers and a sampled softmax."""


@dataclass(frozen=True)
class Choice:
    """What `valid` preferred of a model."""

    gain: float
    """ndcg@10 on `valid`."""
    settings: dict[str, Any]
    epochs: int
    leave_seen_out: bool


def choose(make: Callable[..., Peer], model: str, train: pd.DataFrame, valid: Requests, minutes: float) -> Choice:
    """Return the best settings, epochs and treatment of seen items by ndcg@10 on `valid`."""
    return max(
        (tried(make, settings, train, valid, minutes) for settings in SETTINGS[model]), key=lambda each: each.gain
    )


def tried(
    make: Callable[..., Peer], settings: dict[str, Any], train: pd.DataFrame, valid: Requests, minutes: float
) -> Choice:
    """Return the best that a setting reached before it stopped rising, or the minutes were over."""
    over, peer = time.monotonic() + 60 * minutes, make(train, **settings)
    best = Choice(-1.0, settings, 0, False)
    for epoch in count(1):
        peer.fit_epoch()
        for leave_seen_out in (False, True):
            gain = valid.gain(filled(peer.lists(valid, leave_seen_out), train))
            if gain > best.gain:
                best = Choice(gain, settings, epoch, leave_seen_out)
        if epoch - best.epochs >= PATIENCE or time.monotonic() > over:
            break
    return best


def filled(lists: np.ndarray, events: pd.DataFrame) -> np.ndarray:
    """Return `lists` `[R, K]` with the most popular items where there are none."""
    popular = events["item"].value_counts().index.to_numpy()[:K]
    answers = lists.copy()
    answers[(lists < 0).all(axis=1), : len(popular)] = popular
    return answers


def measure(folder: Path, minutes: float) -> None:
    """Choose, fit and answer `test` with every model of which a file is missing."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    events = pd.read_parquet(folder / "events.parquet")
    parts = {"train": events[events["part"] == "train"], "train+valid": events}
    valid, test = (pd.read_parquet(folder / f"{name}.parquet") for name in ("valid", "test"))
    some = Requests.of(valid.sample(min(len(valid), CHOICE_REQUESTS), random_state=0))

    def bpr(events: pd.DataFrame, **settings: Any) -> Peer:
        return Bpr(events, about["users"], about["items"], **settings)

    for model in SETTINGS:
        make = bpr if model.startswith("BPR") else Transformer
        missing = [fit for fit in about["fits"] if not (folder / f"{fit}-{model}.npz").exists()]
        if not missing:
            continue
        choice = choose(make, model, parts["train"], some, minutes)
        for fit_on in missing:
            start = time.monotonic()
            ranks = answered(make, choice, parts[fit_on], Requests.of(test))
            print(f"{folder.parent.name}, {fit_on}, {model}: {choice}, {time.monotonic() - start:.0f} s", flush=True)
            with atomic_file(folder / f"{fit_on}-{model}.npz") as temporary:
                np.savez(temporary, ranks=ranks, about=str(choice))


def answered(make: Callable[..., Peer], choice: Choice, events: pd.DataFrame, test: Requests) -> np.ndarray:
    """Return the ranks `[T]` of the targets of `test` by the chosen model, fitted on `events`."""
    peer = make(events, **choice.settings)
    for _ in range(choice.epochs):
        peer.fit_epoch()
    return test.ranks(filled(peer.lists(test, choice.leave_seen_out), events))


def main() -> None:
    """Measure every data set that was exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".recsys/suite"), help="folder of the suite")
    parser.add_argument("--only", default="*", help="one data set")
    parser.add_argument("--minutes", type=float, default=3, help="longest fit of a setting")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for folder in sorted(options.work.glob(f"{options.only}/peers-*")):
        measure(folder, options.minutes)


if __name__ == "__main__":
    main()
