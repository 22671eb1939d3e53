"""What the demonstration shows of serving: a scenario, an experiment, and a burst of clicks, each as the API does it.

In: the simulated shop and the name of its model. Out: tables. Nothing of it stays.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from features.simulator.truth import LIST_LENGTH, load_truth
from features.simulator.visitors import Visitors
from recsys.progress import stage
from serving.api.experiments import Experiments
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.schemas import Event, EventsRequest, RecommendRequest
from serving.api.service import Service
from serving.experiments.definition import Experiment
from serving.experiments.results import notes, read_outcome, shown_outcome
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from serving.scenarios.kept import switch_on
from serving.store.feed import EventFeed
from serving.store.impressions import ImpressionLog
from serving.store.store import Store, StoredEvent, StoredExperiment

HOUR_US = 3_600_000_000
USER, SHOWN = "u000001", 5
BURST, WATCHERS = 200, 100
SCENARIO, EXPERIMENT = "home", "home-or-plain"
RULES: dict[str, Any] = {"diversity": 0.3, "per_category": 3}
SHARE = 0.2
"""Of the positions, the part that the promoted category has at least."""
VISITORS = 600
TOGETHER = 100
"""Lists that are requested at once."""


def show_live(shop: Path, model: str, out: Console) -> None:
    """Print what becomes of lists by a scenario, what an experiment finds of it, and what a burst of clicks does."""
    with TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/store.db")
        holder = ModelHolder(model, store)
        _store_scenario(store, holder)
        _show_scenario(store, holder, out)
        _show_experiment(shop, store, holder, out)
        _show_burst(Store(f"sqlite:///{folder}/burst.db"), holder.snapshot.lookup, out)
        store.close()


def _store_scenario(store: Store, holder: ModelHolder) -> None:
    """Switch on a scenario that promotes the smallest category."""
    categories = holder.snapshot.lookup.retriever.items["category"].value_counts(sort=True)["category"]
    promoted = [{"share": SHARE, "where": {"category": categories[-1]}}]
    store.add_scenario(SCENARIO, RULES | {"promotions": promoted})
    switch_on(store, SCENARIO)
    holder.take_scenarios()


def _show_scenario(store: Store, holder: ModelHolder, out: Console) -> None:
    """Print a user's list as it is, and by the scenario."""
    service, items = _service(store, holder), holder.snapshot.lookup.retriever.items
    category = dict(zip(items["item_id"], items["category"], strict=True))
    requests = [RecommendRequest(user_id=USER, k=SHOWN, scenario=scenario) for scenario in (None, SCENARIO)]
    lists = [service.recommend(request).items for request in requests]
    rules = ", ".join(f"{name} {value}" for name, value in RULES.items())
    promoted = store.scenarios(SCENARIO)[0].definition["promotions"][0]["where"]["category"]
    table = Table(title=f"user {USER} by the scenario “{SCENARIO}”: {rules}, {SHARE:.0%} {promoted}", show_lines=True)
    for column in ("without it", "by it"):
        table.add_column(column)
    table.add_row(*("\n".join(f"{each.title} ({category[each.item_id]})" for each in items) for items in lists))
    out.print(table)


def _show_experiment(shop: Path, store: Store, holder: ModelHolder, out: Console) -> None:
    """Print what clicks and purchases of the shop's users say about the scenario, which half of them get lists by."""
    truth = load_truth(shop)
    assert truth is not None
    visitors, experiments = Visitors(truth), Experiments(store, holder, ModelHolder)
    service = _service(store, holder, experiments)
    arms = {"plain": {"share": 0.5}, SCENARIO: {"share": 0.5, "scenario": SCENARIO}}
    body = Experiment.model_validate({"name": EXPERIMENT, "arms": arms}).model_dump(mode="json")
    store.start_experiment(StoredExperiment(EXPERIMENT, body, started=service.clock(), stopped=None))
    experiments.follow()
    with stage("an experiment") as update:
        users = range(min(VISITORS, len(truth.user_signup)))
        for start in range(0, len(users), TOGETHER):
            _visit(visitors, service, users[start : start + TOGETHER])
            update(start / len(users), f"{start:,} of {len(users):,} users")
    service.close()
    outcome = read_outcome(store, EXPERIMENT, service.clock())
    out.print(shown_outcome(outcome))
    for note in notes(outcome):
        out.print(note, highlight=False, soft_wrap=True)


def _visit(visitors: Visitors, service: Service, users: range) -> None:
    """Have each of `users` request a list, and click and buy."""
    requests = [RecommendRequest(user_id=f"u{user:06d}", k=LIST_LENGTH) for user in users]
    lookup = service.holder.snapshot.lookup
    events = []
    for user, answer in zip(users, service.recommend_all(requests), strict=True):
        if isinstance(answer, Exception):
            raise answer
        about: dict[str, Any] = {"user_id": answer.user_id, "request_id": answer.request_id}
        acts = visitors.act(user, visitors.intent(user), [item.item_id for item in answer.items])
        for item, kind in acts:
            price = float(lookup.retriever.price[lookup.rows[item]])
            events.append(Event(item_id=item, event_type=kind, value=price, **about))
    if events:
        service.changes.add_events(EventsRequest(events=events))


def _service(store: Store, holder: ModelHolder, experiments: Experiments | None = None) -> Service:
    """Return a service whose time is an hour after the newest event that the model knows."""
    metrics = Metrics(lambda: holder.snapshot.name)
    now = holder.snapshot.lookup.newest + HOUR_US
    impressions = ImpressionLog(store, metrics.dropped.inc) if experiments else None
    return Service(holder, store, metrics, impressions, lambda: now, 0, experiments)


def _show_burst(store: Store, lookup: Lookup, out: Console) -> None:
    """Print what becomes of an item that `BURST` people click within minutes, as the API would count it."""
    retriever, moment = lookup.retriever, lookup.newest + HOUR_US
    row = int(np.argmin(retriever.features.facts.counts))
    clicks = [StoredEvent(f"b{n}", f"fan{n}", lookup.ids[row], "click", moment + n) for n in range(BURST)]
    store.add_events(clicks)
    feed = EventFeed(store, lookup)
    feed.read()
    after = feed.followed_by(lookup).retriever
    store.close()
    histories = lookup.histories([(user, None) for user in list(lookup.users)[:WATCHERS]], moment + HOUR_US)
    table = Table(title=f"a burst of {BURST} clicks on “{lookup.titles[row]}”, a minute later")
    for column in ("", "in trending", f"candidate for, of {WATCHERS} users", "in their first 10"):
        table.add_column(column)
    for name, one in (("before", retriever), ("after", after)):
        trend = one.trending(10, None, moment + HOUR_US)[0].tolist()
        recommender = replace(lookup.recommender, retriever=one)
        proposed = np.concatenate(list(one.propose(one.open(histories)).values()), axis=1)
        listed = recommender.recommend(histories, RecommendOptions(10)).items
        position = f"{1 + trend.index(row)}." if row in trend else "no"
        table.add_row(name, position, *(str(int((items == row).any(1).sum())) for items in (proposed, listed)))
    out.print(table)
