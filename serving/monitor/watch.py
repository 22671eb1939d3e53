"""`recsys monitor`: figures of what the API served, with their limits.

In: a model, a store, a span of time, limits. Out: a `Watch`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from recsys.errors import RecsysError, UsageError, suggest
from recsys.metrics import calibration_error
from recsys.progress import stage
from recsys.registry import bundle_folder, resolve
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.monitor.described import Described, describe_known, describe_served
from serving.monitor.drift import psi
from serving.monitor.served import FIRST, Rate, Served, rates
from serving.store.changes import later_changes, with_changes
from serving.store.feed import EventFeed
from serving.store.store import ImpressionList, Store

SAMPLE = 1000
"""Requests that are described on either side."""
FEWEST = 100
"""Lists below which nothing is said of drift: chance alone would look like it."""

WHEN = ("hour_sin", "hour_cos", "weekend")
"""Features that say when somebody asked; a day differs from a week in them, and nothing is wrong."""

MEANING = {
    "feature_psi": "largest drift of a ranking feature (PSI)",
    "score_psi": "drift of p(click) of what is listed (PSI)",
    "unknown_users": "share of lists for users without any event",
    "no_user": "share of lists without a user",
    "unknown_items": "share of events on items that the model does not know",
    "empty_lists": "share of lists without an item",
    "calibration_error": "how far p(click) is from what was clicked",
}
LIMITS = {"feature_psi": 0.25, "score_psi": 0.25, "unknown_items": 0.05, "empty_lists": 0.01, "calibration_error": 0.1}
"""What `recsys monitor` calls too much by itself; the other figures have no limit until one is given."""
REMEDY = {
    "feature_psi": "train again on newer data (`recsys data export`, `recsys train`), and see what changed about the feature",
    "score_psi": "train again on newer data",
    "unknown_users": "train again so that the model knows them, or see whether callers send the ids of the dataset",
    "no_user": "see whether callers send user ids",
    "unknown_items": "PUT the items to the API, or serve a newer catalogue with --items",
    "empty_lists": "see which filters leave nothing",
    "calibration_error": "train again: p(click) holds for what was shown when it was fitted",
}


@dataclass(frozen=True)
class Drift:
    """How far a feature went."""

    feature: str
    psi: float
    before: float
    """Its mean over what the model would have listed for the latest requests that it knows."""
    now: float
    """Its mean over what was listed."""


@dataclass(frozen=True)
class Watch:
    """What the API served in a span of time."""

    model: str
    days: float
    lists: int
    described: int
    """Lists that were compared with the reference."""
    figures: dict[str, float]
    limits: dict[str, float]
    drifts: list[Drift]
    """The largest first; none where too few lists could be described."""
    by_model: list[Rate]
    by_position: list[Rate]

    @property
    def exceeded(self) -> dict[str, str]:
        """The figures beyond their limits, each with a line that says what to do."""
        return {
            name: f"{name} is {self.figures[name]:.3g}, limit {limit:g}: {MEANING[name]}{self._example(name)}; {REMEDY[name]}"
            for name, limit in self.limits.items()
            if name in self.figures and self.figures[name] > limit
        }

    def _example(self, name: str) -> str:
        return f", {self.drifts[0].feature}" if name == "feature_psi" else ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, the form of `--json`."""
        return asdict(self) | {"exceeded": self.exceeded}


def limits_of(changes: Mapping[str, float]) -> dict[str, float]:
    """Return the limits with `changes` by name.

    Raises:
        UsageError: a name is none of a figure.
    """
    for name in changes:
        if name not in MEANING:
            raise UsageError(f"--limit {name}: no such figure{suggest(name, list(MEANING))}")
    return LIMITS | dict(changes)


def watch(model: str, store: Store, days: float, limits: Mapping[str, float], now: int) -> Watch:
    """Return what `store` says of the lists that the API served in the `days` before `now` (microseconds), against what `model` was fitted on.

    Raises:
        RecsysError: the model or the store cannot be read, or no list was served in that time.
    """
    name = resolve(model)
    bundle = load_bundle(bundle_folder(name))
    fitted, changed = Lookup(bundle), bundle.recommender
    changed = with_changes(changed, bundle.tokenizer, later_changes(store.item_changes(), bundle.items_as_of))
    lookup = _counting(Lookup(replace(bundle, recommender=changed)), EventFeed(store, fitted))
    with stage("reading the lists"):
        served = Served.of(store, days, now)
    if not served.lists:
        raise RecsysError(
            f"{store}: no list was served in the last {days:g} days; give more --days, or another --store"
        )
    own = [one for one in served.lists if one.model == name]
    if not own:
        others = ", ".join(sorted({one.model for one in served.lists}))
        raise RecsysError(
            f"{store}: none of the {len(served.lists):,} lists is by {name}; name another --model: {others}"
        )
    chosen = _sample([one for one in own if one.user_id and one.items])
    figures, impressions = _shares(lookup, served, store), served.impressions
    drifts: list[Drift] = []
    if len(chosen) >= FEWEST:
        with stage("describing lists, then and now"):
            listed = describe_served(lookup, chosen, store, FIRST)
            before = describe_known(fitted, SAMPLE, FIRST)
        drifts = _drifts(lookup.retriever.features.names, before, listed)
        figures["feature_psi"] = drifts[0].psi
        figures["score_psi"] = psi(before.p_click[before.present], listed.p_click[listed.present])
        figures |= _calibration(impressions, chosen, listed)
    return Watch(
        model=name,
        days=days,
        lists=len(served.lists),
        described=len(chosen) if drifts else 0,
        figures=figures,
        limits=dict(limits),
        drifts=drifts,
        by_model=rates(impressions, "model"),
        by_position=rates(impressions.filter(pl.col("position") <= FIRST), "position"),
    )


def _sample(lists: list[ImpressionList]) -> list[ImpressionList]:
    if len(lists) <= SAMPLE:
        return lists
    rows = np.random.default_rng(0).choice(len(lists), SAMPLE, replace=False)
    return [lists[row] for row in sorted(rows)]


def _counting(lookup: Lookup, feed: EventFeed) -> Lookup:
    """Return `lookup` with the counts of each moment since the fit, which hold for lists of that moment.

    Its sources stay as of the fit: as of now, they would know what came of the lists.
    """
    if not (lookup.retriever.has_clock and feed.read()):
        return lookup
    features = lookup.retriever.features
    counting = replace(features, facts=features.facts.with_recent(feed.recent(lookup.bundle)))
    retriever = replace(lookup.retriever, features=counting)
    return lookup.with_recommender(replace(lookup.recommender, retriever=retriever))


def _shares(lookup: Lookup, served: Served, store: Store) -> dict[str, float]:
    strangers = {one.user_id for one in served.lists if one.user_id and one.user_id not in lookup.users}
    since: dict[str | None, int] = {}
    for event in store.events_of(sorted(strangers)):
        since[event.user_id] = min(event.timestamp, since.get(event.user_id, event.timestamp))
    lists, named = served.lists, [one for one in served.lists if one.user_id]
    unknown = [
        one for one in named if one.user_id in strangers and since.get(one.user_id, one.timestamp) >= one.timestamp
    ]
    items = served.events["item_id"]
    return {
        "unknown_users": len(unknown) / max(1, len(named)),
        "no_user": 1 - len(named) / len(lists),
        "unknown_items": 1 - sum(item in lookup.rows for item in items) / max(1, len(items)),
        "empty_lists": sum(not one.items for one in lists) / len(lists),
    }


def _drifts(names: list[str], then: Described, now: Described) -> list[Drift]:
    before, after = then.dense[then.present], now.dense[now.present]  # [n, F], [m, F]
    drifts = [
        Drift(
            name,
            psi(before[:, column], after[:, column]),
            float(before[:, column].mean()),
            float(after[:, column].mean()),
        )
        for column, name in enumerate(names)
        if name not in WHEN
    ]
    return sorted(drifts, key=lambda drift: -drift.psi)


def _calibration(impressions: pl.DataFrame, lists: list[ImpressionList], now: Described) -> dict[str, float]:
    """Return the calibration error of p(click) over the described items; none where nothing was clicked at all."""
    clicks = impressions.filter(pl.col("position") <= FIRST, pl.col("click"))
    if not clicks.height:
        return {}
    row_of = {one.request_id: row for row, one in enumerate(lists)}
    clicked = np.zeros(now.present.shape)
    for request, position in clicks.select("request_id", "position").iter_rows():
        if request in row_of:
            clicked[row_of[request], position - 1] = 1
    return {"calibration_error": calibration_error(now.p_click[now.present], clicked[now.present])}
