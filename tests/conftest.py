"""What several test files share: one small shop, trained once by the real pipeline."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from features.simulator.shop import simulate
from recsys.config import Config, load_config
from tests.worlds import empty_database, tiny_bundle
from training.pipeline import Trained, train

SETTINGS = (
    "interest.epochs=2",
    "interest.tuning_epochs=1",
    "encoder.max_tokens=48",
    "interest.batch_users=16",
    "interest.encoded_per_step=48",
)

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")  # a busy machine is no failure

POSTGRES = os.environ.get("RECSYS_TEST_POSTGRES", "")


@dataclass(frozen=True)
class Shop:
    """A working directory with the dataset `shop` and a registered model."""

    folder: Path
    dataset: Path
    config: Config
    trained: Trained

    @property
    def model(self) -> str:
        """The model's name."""
        return f"models:/recsys/{self.trained.version}"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Simulate a shop, train and register a model in a folder of its own."""
    folder = tmp_path_factory.mktemp("work")
    simulate(folder / "shop", users=1500, items=250, seed=11)
    config = load_config(None, SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Shop(folder, folder / "shop", config, train(folder / "shop", config, "test", 0, "train+valid"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small untrained bundle."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    if not POSTGRES:
        pytest.skip("RECSYS_TEST_POSTGRES is not set; `.ci/run` starts a server and sets it")
    with empty_database(POSTGRES) as database:
        yield database


@pytest.fixture
def inside(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return the trained shop with its folder as the working directory."""
    monkeypatch.chdir(shop.folder)
    return shop
