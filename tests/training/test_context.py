"""A ranker that is told the circumstances of a request beats one that is not, where they decide what is clicked."""

from pathlib import Path

import numpy as np
import pytest

from features.data.dataset import load_dataset
from features.histories import Histories
from recsys.config import Config
from recsys.errors import RecsysError
from serving.loading import load_bundle, save_bundle
from serving.lookup import Lookup, PastEvent, RequestContext
from serving.recommender import Recommender, RecommendOptions
from tests.training.test_rehearsal import fit_here
from tests.worlds import shop_of_devices, tiny_encoder
from training import fits
from training.evaluation.evaluate import Evaluation
from training.fits import fit
from training.prepared import Prepared, prepare_dataset

TOLD = {"context": ["device", "session_id"], "user_attributes": ["plan", "age"]}


def fitted(folder: Path, encoder: str, ranker: dict[str, list[str]]) -> tuple[Prepared, Recommender]:
    """Fit the whole pipeline, without Ray, on the shop in `folder`."""
    encoding = {"name": encoder, "trainable_layers": 0, "precision": "fp32", "max_tokens": 16}
    sections = {"interest": {"max_history": 8}, "taste": {"width": 4, "epochs": 1}, "lists": {"exclude_seen": "never"}}
    config = Config.model_validate({"encoder": encoding, "ranker": {"kind": "torchrec", **ranker}, **sections})
    prepared = prepare_dataset(load_dataset(folder / "shop"), config, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(fits, "_fit_interest", fit_here)
        return prepared, fit(prepared, "train", folder / f"stages-{len(ranker)}")[0]


def hit_rate(prepared: Prepared, recommender: Recommender) -> float:
    """Return the share of the requests of `valid` whose item is among the first 10 of the list."""
    requests = Evaluation.of(prepared.log, "valid", 8)
    items = recommender.recommend(requests.histories, RecommendOptions(10)).items
    targets = requests.requests.targets[requests.requests.offsets[:-1]]
    return float((items == targets[:, None]).any(1).mean())


@pytest.mark.slow
def test_where_the_device_decides_a_ranker_that_knows_it_finds_more(tmp_path: Path) -> None:
    """And its saved bundle serves the same: more tables on computers than on phones, for the same users at one moment."""
    shop_of_devices(tmp_path / "shop", users=80)
    encoder = tiny_encoder(tmp_path / "encoder")
    prepared, told = fitted(tmp_path, encoder, TOLD)
    assert hit_rate(prepared, told) > 1.05 * hit_rate(*fitted(tmp_path, encoder, {}))
    about = {"dataset": "devices", "dataset_fingerprint": "-", "fit_on": "train", "metrics": {}}
    (tmp_path / "bundle").mkdir()
    save_bundle(tmp_path / "bundle", told, prepared.tokenizer, prepared.log, about)
    lookup = Lookup(load_bundle(tmp_path / "bundle"))
    assert lookup.context == told.retriever.features.context
    pasts = [(None, [PastEvent(f"i{row}"), PastEvent(f"i{row + 1}")]) for row in range(20)]

    def tables(device: str) -> float:
        context = RequestContext({"context_device": device})
        histories = Histories.join([lookup.histories([past], context=context) for past in pasts])
        return float(np.mean(lookup.recommender.recommend(histories, RecommendOptions(10)).items % 2))

    assert tables("computer") > tables("phone") + 0.1


def test_a_name_that_is_no_column_is_refused_before_the_training(tmp_path: Path) -> None:
    shop_of_devices(tmp_path / "shop", users=10)
    config = Config.model_validate({"ranker": {"context": ["devise"]}})
    with pytest.raises(RecsysError, match="no column 'devise'; did you mean 'device'"):
        prepare_dataset(load_dataset(tmp_path / "shop"), config, 0)
