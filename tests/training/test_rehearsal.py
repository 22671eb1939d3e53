"""The rehearsal: some items look new to the ranker while it learns, and to nobody afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.data.dataset import load_dataset
from features.histories import Requests
from recsys.arrays import Bools, Floats
from recsys.config import Config
from recsys.models.text_vectors import text_vectors
from serving.encoding import project
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources.taste import TasteSource
from tests.worlds import tiny_encoder, write_dataset
from training import fits
from training.fits import fit, interest_data
from training.interest.ray_fit import InterestFit
from training.interest.trainer import InterestTrainer
from training.plan import PLANS, FitOn
from training.prepared import Prepared, prepare_dataset
from training.ranker.data import RankingData, ranking_data

ITEMS, USERS, STEPS = 16, 20, 12


@dataclass(frozen=True)
class Rehearsed:
    """What the ranker would be fitted on, and what is served in the end."""

    prepared: Prepared
    hidden: Bools
    early: Retriever
    requests: Requests
    """Those that the ranker learns from."""
    data: RankingData
    late: Retriever


def shop(folder: Path) -> Path:
    """Write a dataset in which every item has events at all times; users of odd numbers return to none."""
    head = "user_id,item_id,event_type,timestamp\n"
    rows = [
        f"u{user},i{(3 * user + step * (step + user % 2) // (1 + user % 2)) % ITEMS},click,{1_700_000_000 + 86_400 * step + 600 * user}\n"
        for user in range(USERS)
        for step in range(STEPS)
    ]
    names = "".join(f"i{row},Title number {row},Made of part {row}. Sent by mail {row % 3}.\n" for row in range(ITEMS))
    return write_dataset(
        folder, **{"items.csv": "item_id,title,description\n" + names, "events.csv": head + "".join(rows)}
    )


def fit_here(prepared: Prepared, segments: tuple[int, ...], folder: Path, *_: Any) -> InterestFit:
    """Fit the interest model for an epoch in this process instead of under Ray, with clear ID residuals."""
    trainer = InterestTrainer(interest_data(prepared, segments), prepared.config, device=torch.device("cpu"), seed=0)
    assert trainer.model.id_table is not None
    torch.nn.init.normal_(next(trainer.model.id_table.parameters()), std=0.3)
    folder.mkdir(parents=True)
    trainer.save(folder)
    return InterestFit(1, 0.1, [], str(folder), "cpu")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """Fit a small shop without Ray, up to the ranker."""
    folder = tmp_path_factory.mktemp("rehearsal")
    encoder = {"name": tiny_encoder(folder / "encoder"), "trainable_layers": 0, "precision": "fp32", "max_tokens": 16}
    sections = {"interest": {"max_history": 6}, "taste": {"width": 4, "epochs": 1}, "ranker": {"rehearsed_share": 0.4}}
    config = Config.model_validate({"encoder": encoder} | sections)
    found: dict[str, Any] = {}

    def no_ranker(prepared: Prepared, fit_on: FitOn, early: Retriever) -> None:
        requests = fits.ranker_requests(prepared, PLANS[fit_on])
        found.update(
            early=early,
            data=ranking_data(early, prepared.log, requests, fits._rehearsed(prepared)),
            requests=requests,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(fits, "_fit_interest", fit_here)
        patch.setattr(fits, "fit_ranker_of", no_ranker)
        prepared = prepare_dataset(load_dataset(shop(folder / "shop")), config, 0)
        recommender, _ = fit(prepared, "train", folder / "stages")
    return Rehearsed(prepared, fits._rehearsed(prepared), late=recommender.retriever, **found)


def of_hidden(rehearsed: Rehearsed) -> Bools:
    """Return where the ranker's candidates `[R, C]` are hidden items."""
    hidden: Bools = rehearsed.data.present & rehearsed.hidden[rehearsed.data.candidates]
    return hidden


def test_about_the_configured_share_is_hidden_and_the_seed_says_which(rehearsed: Rehearsed) -> None:
    """Resuming a training hides the same items."""
    assert 0.15 < rehearsed.hidden.mean() < 0.65
    np.testing.assert_array_equal(fits._rehearsed(rehearsed.prepared), rehearsed.hidden)


def test_a_hidden_item_is_a_candidate_without_any_popularity(rehearsed: Rehearsed) -> None:
    """And it may be what the user chose, or there would be nothing to learn."""
    hidden, names = of_hidden(rehearsed), rehearsed.early.features.names
    assert hidden.any() and rehearsed.data.labels[hidden].any()
    counts = [index for index, name in enumerate(names) if name.startswith("popularity")]
    assert len(counts) >= 4
    assert not rehearsed.data.dense[hidden][:, counts].any()
    others = rehearsed.data.present & ~rehearsed.hidden[rehearsed.data.candidates]
    assert rehearsed.data.dense[others][:, names.index("popularity")].all()
    assert not rehearsed.early.features.facts.events.counts[rehearsed.hidden].any()


def test_what_a_user_has_met_never_looks_new(rehearsed: Rehearsed) -> None:
    """A new item is in no history; the other items of the history stay candidates."""
    log, requests = rehearsed.prepared.log, rehearsed.requests
    past = log.histories(requests.users, requests.times, 6).items
    met = (rehearsed.data.candidates[:, :, None] == past[:, None, :]).any(2) & rehearsed.data.present
    assert met.any()
    assert not rehearsed.early.exclude_seen
    assert not (met & of_hidden(rehearsed)).any()


def with_text_alone(retriever: Retriever, texts: torch.Tensor) -> Bools:
    """Return which items' vectors are those of their `texts` `[N, H]` without an ID residual."""
    beyond = np.full(len(texts), np.iinfo(np.int64).max)  # no item of the ID table
    distances: Floats = np.abs(retriever.vectors - project(retriever.model, texts, beyond)).max(1)
    return distances < 1e-5


def test_a_hidden_item_has_the_vector_of_its_text_until_the_final_retriever(rehearsed: Rehearsed) -> None:
    """There, every item with events has its ID residual again."""
    model = rehearsed.early.model
    texts = text_vectors(model.encoder, rehearsed.prepared.tokens, "fp32")
    np.testing.assert_array_equal(with_text_alone(rehearsed.early, texts), rehearsed.hidden)
    assert not with_text_alone(rehearsed.late, texts).any()


def test_every_item_is_known_again_in_the_final_retriever(rehearsed: Rehearsed) -> None:
    """Its counts, facts and sources are those of all fitted events."""
    late = rehearsed.late
    fitted = rehearsed.prepared.segments(PLANS["train"].refit)
    counts = np.bincount(fitted.items, minlength=ITEMS)
    assert counts.all()
    np.testing.assert_array_equal(late.features.facts.events.counts, counts)
    taste = late.sources["taste"]
    assert isinstance(taste, TasteSource)
    np.testing.assert_array_equal(taste.counts, counts)
