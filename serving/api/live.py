"""The snapshot that serves now: loaded, kept up to date, and replaced atomically while requests are answered.

In: the name of a model (a bundle folder, a version, or an alias, which may move), and the store, whose
item changes are applied to the bundle's catalogue. Out: `ModelHolder.snapshot`, which each request
reads once and then keeps.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cachetools import LRUCache

from recsys import registry
from recsys.errors import first_line
from recsys.events import DAY_US
from serving.api.fairness import taking_turns
from serving.api.repeat import Repeated
from serving.first_list import require_first_list
from serving.loading import Bundle, load_bundle
from serving.lookup import Lookup
from serving.scenarios.kept import active
from serving.store.changes import later_changes, with_changes
from serving.store.feed import EventFeed
from serving.store.retention import prune
from serving.store.store import ItemChange, Store

log = logging.getLogger("recsys.live")

CACHED = 256
"""Sentences and filters that are cached for a snapshot."""
EVENTS_EVERY_S = 10.0
"""Seconds between two looks at the store's events, which counts, trends and co-visits follow."""
CHANGES_EVERY_S = 0.5
"""Seconds between two looks at the store's item changes and scenarios."""
PRUNE_EVERY_S = 3600.0
"""Seconds between two deletions of what is older than it may be."""
ALIAS_EVERY_S = 2.0
"""Seconds between two looks at the alias."""
LONGEST_WAIT_S = 300.0
"""Seconds between two attempts to load a model that failed again and again."""


@dataclass(frozen=True)
class _Failure:
    """A model that could not be loaded."""

    reason: str
    times: int
    at: float = field(default_factory=lambda: time.monotonic())

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt, twice as many after each."""
        return float(min(ALIAS_EVERY_S * 2.0**self.times, LONGEST_WAIT_S))

    @property
    def retry_at(self) -> float:
        """When the next attempt may be made, on the clock of `time.monotonic`."""
        return self.at + self.wait_s


@dataclass(frozen=True)
class Snapshot:
    """A loaded bundle with the current catalogue; its encoder, index, ranker and items belong together."""

    name: str
    lookup: Lookup
    feed: EventFeed
    """The store's events since the fit."""
    change: int = 0
    """Number of the last item change of the store that is applied."""
    counted: int = 0
    """What `change` was when the events were counted."""
    cache: LRUCache[tuple[str, str], Any] = field(default_factory=lambda: LRUCache(CACHED))
    """Values computed from this catalogue, which are dropped together with it."""
    caching: threading.Lock = field(default_factory=threading.Lock)
    """Is held by who reads or writes `cache`."""

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle, with the item changes applied."""
        return self.lookup.bundle

    def offered(self, now: int) -> int:
        """Return how many items may be in lists at the time `now` in microseconds."""
        offered = self.lookup.retriever.offered(self.lookup.moment(now))
        return len(self.lookup.ids) if offered is None else int(offered.sum())


class ModelHolder:
    """Holds the current `snapshot` and replaces it when the alias moves or the store's items change."""

    def __init__(self, model: str, store: Store, keep_days: int | None = None) -> None:
        """Load `model`: a bundle folder, a version, or an alias. `watch` deletes what is older than `keep_days`.

        Raises:
            RecsysError: the model cannot be loaded, or cannot rank.
        """
        self._requested, self._store, self._keep_days = model, store, keep_days
        self._changing, self._loading = threading.Lock(), threading.Lock()
        self._repeated: list[Repeated] = []
        self._failures: dict[str, _Failure] = {}
        self.scenarios = active(store)
        """The scenarios that are on, by name."""
        self.snapshot = self._load(registry.resolve(model))

    def reload(self, force: bool = False) -> Snapshot:
        """Load the model that the name refers to now, and return the snapshot that serves.

        A model that serves already is loaded again only if `force` is set.

        Raises:
            RecsysError: the model cannot be loaded, or fails its first ranking; the old snapshot stays in use.
        """
        with self._loading:
            name = registry.resolve(self._requested)
            if name == self.snapshot.name and not force:
                return self.snapshot
            try:
                with taking_turns():
                    loaded = self._load(name)
            except Exception as error:
                failure = _Failure(first_line(error), self._failures[name].times + 1 if name in self._failures else 1)
                self._failures[name] = failure
                log.error(
                    "%s could not be loaded: %s; %s stays in use, the next attempt is in %.0f s",
                    name, failure.reason, self.snapshot.name, failure.wait_s,
                )  # fmt: skip
                raise
            with self._changing:  # apply what changed during loading
                self.snapshot = _with_changes(loaded, self._store.item_changes(loaded.change))
            self._failures.pop(name, None)
            log.info("%s serves", name)
            return self.snapshot

    def take_changes(self) -> Snapshot:
        """Apply the store's new item changes, and return the snapshot that serves."""
        with self._changing:
            changes = self._store.item_changes(self.snapshot.change)
            if changes:
                with taking_turns():
                    self.snapshot = _with_changes(self.snapshot, changes)
            return self.snapshot

    def take_events(self) -> Snapshot:
        """Count the store's new events, and return the snapshot that serves: its counts, trends and co-visits are of now."""
        with self._changing:
            self.snapshot = _with_events(self.snapshot)
            return self.snapshot

    def take_scenarios(self) -> None:
        """Take over which scenarios are on in the store."""
        self.scenarios = active(self._store)

    def watch(self) -> None:
        """Follow the store and the alias in background threads until `stop` is called, and delete what is too old."""
        steps: list[tuple[float, Callable[[], object]]] = [
            (CHANGES_EVERY_S, self._follow_store),
            (EVENTS_EVERY_S, self.take_events),
            (ALIAS_EVERY_S, self._follow_alias),
        ]
        if self._keep_days is not None:
            steps.append((PRUNE_EVERY_S, self._prune))
        self._repeated += [Repeated(step, every_s) for every_s, step in steps]

    def stop(self) -> None:
        """Stop the threads of `watch`."""
        for repeated in self._repeated:
            repeated.stop()

    @property
    def failed(self) -> dict[str, str]:
        """Models that failed to load, with the reason; the snapshot before them stays in use."""
        return {name: failure.reason for name, failure in self._failures.items()}

    def _follow_alias(self) -> None:
        failure = self._failures.get(registry.resolve(self._requested))
        if failure is None or time.monotonic() >= failure.retry_at:
            self.reload()

    def _follow_store(self) -> None:
        self.take_changes()
        self.take_scenarios()
        self._store.ping()  # says in the log why `/readyz` is 503

    def _prune(self) -> None:
        assert self._keep_days is not None
        before = time.time_ns() // 1000 - self._keep_days * DAY_US
        bundle = self.snapshot.bundle
        pruned = prune(self._store, before, bundle.items, bundle.items_as_of)
        if pruned.total:
            log.info("deleted %s older than %d days", pruned, self._keep_days)

    def _load(self, name: str) -> Snapshot:
        lookup = Lookup(load_bundle(registry.bundle_folder(name)))
        snapshot, changes = Snapshot(name, lookup, EventFeed(self._store, lookup)), self._store.item_changes()
        older = len(changes) - len(later_changes(changes, snapshot.bundle.items_as_of))
        if older:
            log.info(
                "%d of %d item changes are older than the catalogue of %s, which counts", older, len(changes), name
            )
        snapshot = _with_events(_with_changes(snapshot, changes))
        require_first_list(name, snapshot.lookup)
        return snapshot


def _with_changes(snapshot: Snapshot, changes: list[ItemChange]) -> Snapshot:
    """Return the snapshot with items added, replaced and deleted, but for changes that its bundle's catalogue knows."""
    if not changes:
        return snapshot
    bundle = snapshot.bundle
    later = later_changes(changes, bundle.items_as_of)
    if not later:
        return replace(snapshot, change=changes[-1].number)
    recommender = with_changes(bundle.recommender, bundle.tokenizer, later)
    lookup = Lookup(replace(bundle, recommender=recommender), before=snapshot.lookup)
    return Snapshot(snapshot.name, lookup, snapshot.feed, changes[-1].number, snapshot.counted)


def _with_events(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as of the store's events, the same where nothing is new."""
    lookup, feed = snapshot.lookup, snapshot.feed
    if not lookup.retriever.has_clock or not (feed.read() or snapshot.counted < snapshot.change):
        return snapshot
    with taking_turns():
        lookup = feed.followed_by(lookup)
    return replace(snapshot, lookup=lookup, counted=snapshot.change)
