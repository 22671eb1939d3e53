"""A search small enough for a test: 16 items, a tiny encoder, and an interest model that is fitted already."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from features.data.dataset import load_dataset
from recsys.config import Config
from tests.training.test_rehearsal import fit_here, shop
from tests.worlds import tiny_encoder
from training.interest.ray_fit import RESULT
from training.plan import PLANS
from training.prepared import prepare_dataset
from training.search.trials import FIT_ON, STAGES, without_test


def small_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """Return a configuration of little work, whose encoder is in `folder`."""
    encoder = {"name": tiny_encoder(folder / "encoder"), "trainable_layers": 0, "precision": "fp32", "max_tokens": 16}
    small: dict[str, Any] = {
        "encoder": encoder,
        "interest": {"max_history": 6, "heads": 2},
        "taste": {"width": 4, "epochs": 1},
        "ranker": {"min_steps": 1, "epochs": 1, "trees": 5, "teachers": 1},
        "compute": {"device": "cpu"},
    }
    return Config.model_validate({name: small.get(name, {}) | sections.get(name, {}) for name in small | sections})


def small_shop(folder: Path) -> Path:
    """Write the dataset and return its folder."""
    return shop(folder / "shop")


def fit_stages(dataset: Path, config: Config, folder: Path) -> None:
    """Leave the fits of the interest model, made in this process, where a search in `folder` looks for them."""
    torch.manual_seed(0)
    prepared = without_test(prepare_dataset(load_dataset(dataset), config, 0))
    for name, segments in (("choose", PLANS[FIT_ON].choose), ("refit", PLANS[FIT_ON].refit)):
        stage = folder / STAGES / name
        fit = fit_here(prepared, segments, stage)
        (stage / RESULT).write_text(json.dumps(asdict(fit)), encoding="utf-8")
