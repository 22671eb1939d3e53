"""The model that answers now: loaded, changed and replaced as one, without a request noticing.

In: what names the model (an alias that moves), and the store, whose item changes come on top of the
bundle's catalogue. Out: `ModelHolder.snapshot`, which a request reads once and keeps.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cachetools import LRUCache

from recsys import registry
from recsys.errors import RecsysError
from serving.columns import items_table
from serving.loading import Bundle, load_bundle, read_sentences, with_items
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from serving.store.store import ItemChange, Store, StoreError

log = logging.getLogger("recsys.live")

CACHED = 256
"""Sentences and filters that are remembered for a snapshot."""
CHANGES_EVERY_S = 0.5
MODEL_EVERY_S = 2.0


@dataclass(frozen=True)
class Snapshot:
    """One model in memory for the catalogue as it is: encoder, index, ranker and items belong together."""

    name: str
    lookup: Lookup
    change: int
    """The last item change of the store that it knows."""
    cache: LRUCache[tuple[str, str], Any] = field(default_factory=lambda: LRUCache(CACHED))
    """What was worked out from this catalogue; it ends with it."""

    @property
    def bundle(self) -> Bundle:
        """What was loaded, with the changed items."""
        return self.lookup.bundle


class ModelHolder:
    """Keeps `model` up to date with its alias and with the store."""

    def __init__(self, named: str, store: Store) -> None:
        """Load the model that is `named`: a bundle folder, a version, or an alias, which may move.

        Raises:
            RecsysError: it cannot be loaded, or cannot rank.
        """
        self._named, self._store = named, store
        self._changing, self._loading = threading.Lock(), threading.Lock()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failed: dict[str, str] = {}
        """Models that did not load, and why; the one before them goes on."""
        self.snapshot = self._load(registry.resolve(named))

    def reload(self, force: bool = False) -> Snapshot:
        """Load the model that is named now, if it is another one or `force` is set, and return what serves.

        Raises:
            RecsysError: the new one cannot be loaded or fails its first ranking; the old one goes on.
        """
        with self._loading:
            name = registry.resolve(self._named)
            if name == self.snapshot.name and not force:
                return self.snapshot
            try:
                loaded = self._load(name)
            except Exception as error:
                self.failed[name] = (str(error).splitlines() or [repr(error)])[0]
                log.error("%s was not taken: %s; %s goes on", name, self.failed[name], self.snapshot.name)
                raise
            with self._changing:  # what changed while it was being loaded
                self.snapshot = _changed(loaded, self._store.item_changes(loaded.change))
            self.failed.pop(name, None)
            log.info("%s serves", name)
            return self.snapshot

    def take_changes(self) -> Snapshot:
        """Take over what changed in the store's items, and return what serves."""
        with self._changing:
            changes = self._store.item_changes(self.snapshot.change)
            if changes:
                self.snapshot = _changed(self.snapshot, changes)
            return self.snapshot

    def watch(self) -> None:
        """Follow the store and the alias in the background until `stop`."""
        for every, step in ((CHANGES_EVERY_S, self.take_changes), (MODEL_EVERY_S, self._follow)):
            thread = threading.Thread(target=self._repeat, args=(every, step), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End what `watch` began."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _follow(self) -> None:
        if registry.resolve(self._named) not in self.failed:
            self.reload()

    def _repeat(self, every_s: float, step: Callable[[], object]) -> None:
        while not self._stopped.wait(every_s):
            try:
                step()
            except StoreError as error:
                log.warning("%s", error)
            except Exception as error:  # the model that serves goes on, whatever became of another
                log.warning("looking for changes: %s", (str(error).splitlines() or [repr(error)])[0])

    def _load(self, name: str) -> Snapshot:
        model = Snapshot(name, Lookup(load_bundle(registry.bundle_folder(name))), 0)
        model = _changed(model, self._store.item_changes())
        _rank_once(model)
        return model


def _rank_once(model: Snapshot) -> None:
    """Refuse a model that cannot rank; the first ranking of a process is slow, and users do not meet it."""
    lookup = model.lookup
    for history in ([], lookup.ids[:1]):
        options = RecommendOptions(min(5, len(lookup.ids)))
        ranking = lookup.recommender.recommend(lookup.histories([(None, history)]), options)
        found = ranking.items >= 0
        if not found.any() or not np.isfinite(ranking.score[found]).all():
            raise RecsysError(f"{model.name}: its first list has no items or no scores; train it again")
    # The first text is slow as well: it makes the encoder in int8.
    read_sentences(lookup.retriever, model.bundle.tokenizer, lookup.titles[:1])


def _changed(model: Snapshot, changes: list[ItemChange]) -> Snapshot:
    """Return the model with items put and deleted."""
    if not changes:
        return model
    bundle = model.bundle
    recommender, rows = bundle.recommender, model.lookup.rows
    bodies = [{"item_id": change.item_id, **change.body} for change in changes if change.body is not None]
    if bodies:
        table = items_table(bodies, recommender.retriever.items.schema)
        recommender = with_items(recommender, bundle.tokenizer, table)
    gone = [rows[change.item_id] for change in changes if change.body is None and change.item_id in rows]
    if gone:
        retriever = recommender.retriever
        available = np.ones(len(retriever.vectors), bool) if retriever.available is None else retriever.available.copy()
        available[gone] = False
        recommender = replace(recommender, retriever=retriever.restricted(available))
    return Snapshot(model.name, Lookup(replace(bundle, recommender=recommender)), changes[-1].number)
