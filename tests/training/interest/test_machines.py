"""A fit on two machines that share no folder: what workers read and write goes through the object store and object storage."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from recsys.config import Config
from tests.machines import two_machines
from tests.training.interest.small import config_of, data_of
from training.interest.ray_fit import NDCG, TUNED, InterestFit
from training.interest.trainer import InterestTrainer

DRIVER = """
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.config import Config
from recsys.errors import RecsysError
from tests.training.interest.small import data_of
from training.interest.ray_fit import choose_epochs, refit

if __name__ == "__main__":
    notes, config = [], Config.model_validate_json(sys.argv[1])
    nowhere = config.model_copy(update={"compute": config.compute.model_copy(update={"storage": ""})})
    common = {"seed": 3, "update": lambda share, note: notes.append(note)}
    try:
        choose_epochs(data_of(config), config=nowhere, folder=Path("nowhere"), **common)
    except RecsysError as error:
        refused = str(error)
    chosen = choose_epochs(data_of(config), config=config, folder=Path("choose"), **common)
    again = refit(data_of(config), chosen, config=config, folder=Path("refit"), **common)
    fits = [asdict(fit) for fit in (chosen, again)]
    print("said", json.dumps({"fits": fits, "notes": notes, "refused": refused}))
"""


@pytest.fixture
def bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """Start object storage on loopback; return a bucket and the environment that reaches it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    client(endpoint).create_bucket(Bucket="fits")
    yield endpoint, keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
    server.stop()


def client(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )


def local(config: Config, encoder: str) -> Config:
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"name": encoder})})


@pytest.mark.slow
def test_workers_on_two_machines_need_no_folder_that_both_reach(
    folder: str, tmp_path: Path, bucket: tuple[str, dict[str, str]]
) -> None:
    """The text encoder, data and checkpoints of earlier fits reach them, progress and the kept weights come back; storage is emptied."""
    endpoint, keys = bucket
    driver = tmp_path / "driver"
    shutil.copytree(folder, driver / "encoder")
    config = config_of(str(driver / "encoder"), trainable=1, workers=2, epochs=2, tuning_epochs=1, batch_users=8)
    compute = config.compute.model_copy(update={"storage": "s3://fits/recsys"})
    config = config.model_copy(update={"compute": compute})
    with two_machines(driver, keys) as env:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, config.model_dump_json()],
            env=env,
            cwd=driver,
            capture_output=True,
            text=True,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("said ")]
    assert lines, done.stderr
    said = json.loads(lines[0].removeprefix("said "))
    assert said["refused"].startswith("the cluster of RAY_ADDRESS has 2 machines; name what all of them reach")
    chosen, refitted = (InterestFit(**fit) for fit in said["fits"])
    assert [epoch[TUNED] for epoch in chosen.history] == [0.0, 0.0, 1.0]
    assert any(note.startswith("epoch 2 of at most 3, best ndcg@10") for note in said["notes"])
    assert len(refitted.history) == refitted.epochs == chosen.epochs
    trainer = InterestTrainer(data_of(config), local(config, folder), device=torch.device("cpu"), seed=99)
    trainer.restore(driver / chosen.checkpoint)
    assert trainer.evaluate() == pytest.approx(chosen.metric, abs=1e-6)
    assert chosen.metric == max(epoch[NDCG] for epoch in chosen.history)
    left = client(endpoint).list_objects_v2(Bucket="fits").get("Contents", [])
    assert [each["Key"] for each in left if not each["Key"].endswith("/")] == []
