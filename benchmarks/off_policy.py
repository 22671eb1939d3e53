"""Off-policy estimates against the truth: the simulated shop is served with exploration, and its users click by their tastes.

    python -m training.demo demo && python -m benchmarks.off_policy demo

In: the folder of the demonstration. Out: `shop-explored` there, what `recsys evaluate --off-policy` prints of it for the champion
against a model that sorts by expected revenue (`by-revenue`, the champion with another value formula), and the true figures.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from features.simulator.shop import END_US
from features.simulator.truth import EXAMINED, LIST_LENGTH, Truth, load_truth
from features.simulator.visitors import Visitors
from recsys.bundle import MANIFEST, read_config, seal
from recsys.config import Config
from recsys.events import DAY_US
from recsys.progress import stage
from recsys.registry import bundle_folder
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.schemas import Event, EventsRequest, RecommendRequest, RecommendResponse
from serving.api.service import Service
from serving.store.export import export
from serving.store.impressions import ImpressionLog
from serving.store.store import Store
from training.evaluation.explored import evaluate_off_policy, judge
from training.evaluation.off_policy_report import LOGGED, render_off_policy

MODEL, OTHER = "models:/recsys@champion", "by-revenue"
DAYS, EXPLORE, SHARE = 5, 0.2, 0.25
USERS = 100
"""Lists that are requested at once."""


class Remembered(Visitors):
    """Visitors who send events, and of whom each list's probabilities are kept."""

    true: dict[str, NDArray[np.float32]]
    """`[2, N]` probability of a click and of a purchase of each item that is looked at, by request id."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(truth)
        self.true = {}

    def visit(self, user: int, response: RecommendResponse) -> list[Event]:
        """Return what a user does with a list."""
        intent = self.intent(user)
        self.true[response.request_id] = np.stack([intent[0], intent[0] * intent[1]])
        about: dict[str, Any] = {"user_id": _user(user), "request_id": response.request_id}
        acts = self.act(user, intent, [item.item_id for item in response.items])
        return [Event(item_id=item, event_type=kind, **about) for item, kind in acts]


def main(folder: Path) -> None:
    """Serve, export, estimate, and print the true figures."""
    os.chdir(folder)
    truth = load_truth(Path("shop"))
    assert truth is not None, "the dataset is not simulated"
    visitors, out = Remembered(truth), Path("shop-explored")
    shutil.rmtree(out, ignore_errors=True)
    _with_config(bundle_folder(MODEL), Path(OTHER), value={"price_power": 1.0})
    with tempfile.TemporaryDirectory() as scratch:
        exploring = _with_config(bundle_folder(MODEL), Path(scratch) / "exploring", lists={"explore": EXPLORE})
        store = Store(f"sqlite:///{scratch}/store.db")
        _serve(exploring, store, visitors)
        export(Path("shop"), store, out)
        store.close()
    console = Console(width=160)
    report = evaluate_off_policy(out, MODEL, OTHER, SHARE)
    render_off_policy(report, console)
    for name, (click, purchase) in true_figures(out, visitors).items():
        console.print(f"truth: {name}: click {click:.4f}, purchase {purchase:.4f}")


def _serve(bundle: Path, store: Store, visitors: Remembered) -> None:
    now = END_US
    metrics = Metrics(lambda: bundle.name)
    impressions = ImpressionLog(store, metrics.dropped.inc)
    service = Service(ModelHolder(str(bundle), store), store, metrics, impressions, clock=lambda: now, seed=0)
    users = range(len(visitors.truth.user_signup))
    with stage(f"serving {DAYS * len(users):,} lists") as update:
        for day in range(DAYS):
            for start in range(0, len(users), USERS):
                group = users[start : start + USERS]
                now = END_US + (day + 1) * DAY_US + start * 1_000_000
                requests = [RecommendRequest(user_id=_user(user), k=LIST_LENGTH) for user in group]
                events = []
                for user, response in zip(group, service.recommend_all(requests), strict=True):
                    if isinstance(response, Exception):
                        raise response
                    events += visitors.visit(user, response)
                now += 1_000_000
                service.changes.add_events(EventsRequest(events=events))
                update((day + start / len(users)) / DAYS, f"day {day + 1}")
    impressions.close(60)


def true_figures(dataset: Path, visitors: Remembered) -> dict[str, NDArray[np.float64]]:
    """Return the true outcomes per explored position, click and purchase, of the even draw and of each model's choice."""
    judged = judge(dataset, [MODEL, OTHER], SHARE)
    rows, pool = judged.rows, judged.explored.pool
    items = np.zeros(pool.shape, np.int64)
    items[pool] = [visitors.rows[item] for item in rows["pool"].explode()]
    true = np.stack([visitors.true[request][:, own] for request, own in zip(rows["request_id"], items, strict=True)])
    true = true * EXAMINED[judged.explored.positions - 1][:, None, None]  # [S, 2, C]
    policies = {LOGGED: pool / pool.sum(1, keepdims=True)} | judged.chosen
    return {name: np.einsum("shc,sc->sh", true, policy).mean(0) for name, policy in policies.items()}


def _user(row: int) -> str:
    return f"u{row:06d}"


def _with_config(bundle: Path, folder: Path, **sections: dict[str, Any]) -> Path:
    """Write `bundle` anew to `folder` with other values of some configuration keys, and return `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle, folder)
    values = read_config(folder).model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    about = json.loads((folder / MANIFEST).read_text())
    seal(
        folder,
        Config.model_validate(values),
        {key: about[key] for key in set(about) - {"format", "code_version", "files"}},
    )
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "demo"))
