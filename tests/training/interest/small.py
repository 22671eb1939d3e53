"""A small interest model to fit: users who walk along the items in the same way, a tiny encoder, nothing left to chance."""

from pathlib import Path
from typing import Any

from features.histories import EARLY, LATE, EventLog
from recsys.config import Config
from recsys.events import DEFAULT_EVENT_WEIGHTS
from recsys.models.encoder import Tokens, load_encoder, tokenize
from tests.worlds import log_of, words
from training.interest.data import InterestData
from training.interest.ray_fit import InterestFit, choose_epochs
from training.interest.sequences import prepare

ITEMS, USERS = 30, 24


def config_of(folder: str, trainable: int = 0, workers: int = 1, **interest: Any) -> Config:
    without_chance = {"dropout": 0.0, "id_dropout": 0.0, "learning_rate": 3e-3}
    return Config.model_validate(
        {
            "encoder": {"name": folder, "trainable_layers": trainable, "precision": "fp32"},
            "interest": without_chance | interest,
            "compute": {"workers": workers, "device": "cpu"},
        }
    )


def tokens_of(config: Config) -> Tokens:
    _, tokenizer = load_encoder(config.encoder)
    return tokenize(words(ITEMS), tokenizer, 16)


def log_of_equal_users() -> EventLog:
    """Return users with four events in train, of the same types in the same order, and one in valid."""
    rows = [
        (f"u{user:02}", f"i{(user + 2 * step) % ITEMS}", "purchase" if step == 2 else "click", 10 * step + user % 10)
        for user in range(USERS)
        for step in range(5)
    ]
    return log_of(rows, ITEMS, ["valid" if row % 5 == 4 else "train" for row in range(len(rows))])


def data_of(config: Config) -> InterestData:
    return prepare(
        log_of_equal_users(),
        (EARLY, LATE),
        tokens_of(config),
        weights=DEFAULT_EVENT_WEIGHTS,
        has_clock=True,
        config=config,
    )


def no_update(share: float, note: str = "") -> None:
    pass


def choose(config: Config, folder: Path) -> InterestFit:
    return choose_epochs(data_of(config), config=config, seed=3, folder=folder, update=no_update)
