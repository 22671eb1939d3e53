"""A scenario for one catalogue: which items its rules mean, and what of them no item meets.

In: a `Scenario` and a retriever. Out: `RecommendOptions`, the same for the API and for batch lists, and notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.arrays import Bools, Floats
from recsys.bundle import verify
from recsys.config import Config, SourcesConfig, ValueConfig
from serving.columns import items_table, with_attributes
from serving.fields import Filters, Worth
from serving.filters import matching, why_none
from serving.loading import changed_catalogue, offered_items, read_items
from serving.recommender import ItemFilter, RecommendOptions
from serving.rerank import ListRules, Promotion
from serving.scenarios.definition import Scenario
from serving.store.changes import later_changes
from serving.store.rows import ItemChange


@dataclass(frozen=True)
class Offer:
    """The items that lists can hold."""

    items: pl.DataFrame
    """`[N]` rows."""
    available: Bools | None = None
    """`[N]` items that may be in lists; None for all."""

    def row(self, item_id: str) -> int | None:
        """Return the row of an item; None where there is none, or it may not be in lists."""
        rows = np.flatnonzero((self.items["item_id"] == item_id).to_numpy())
        offered = len(rows) and (self.available is None or self.available[rows[0]])
        return int(rows[0]) if offered else None

    def passing(self, filters: Filters, where: str) -> tuple[Bools, list[str]]:
        """Return a mask `[N]` of the available items that pass, and a note if there are none."""
        conditions, where = filters.conditions(), f"{where}."
        mask = matching(self.items, conditions, where)
        notes = [] if mask.any() else why_none(self.items, conditions, where)
        return (mask if self.available is None else mask & self.available), notes


def served_offer(bundle: Path, changes: Sequence[ItemChange]) -> Offer:
    """Return the items of a bundle, changed and deleted as servers do it, without loading the models."""
    items, changes = read_items(bundle), later_changes(changes, verify(bundle).get("items_as_of"))
    bodies = [{"item_id": change.item_id, **change.body} for change in changes if change.body is not None]
    if bodies:
        items = changed_catalogue(items, items_table(bodies, with_attributes(items.schema, bodies)))
    deleted = [change.item_id for change in changes if change.body is None]
    return Offer(items, offered_items(items) & ~items["item_id"].is_in(deleted).to_numpy())


def notes_of(scenario: Scenario, offer: Offer) -> list[str]:
    """Return what of a scenario no item meets.

    Raises:
        FilterError: a condition names a column that the items lack, or a value of another type.
    """
    allowed, notes = offer.passing(scenario.filters, "filters") if scenario.filters else (None, [])
    return notes + rules_of(scenario, offer, allowed)[1]


def rules_of(scenario: Scenario, offer: Offer, allowed: Bools | None = None) -> tuple[ListRules | None, list[str]]:
    """Return what the rules of a scenario mean for the items that are offered, and what cannot be done of them.

    Pinned and promoted items are among the `allowed` `[N]` too. None stands for no rules.

    Raises:
        FilterError: a condition names a column that the items lack, or a value of another type.
    """
    factors, notes = _factors(scenario, offer)
    pins: dict[int, int] = {}
    for number, pin in enumerate(scenario.pins, 1):
        row, problem = _item(pin.item, offer, allowed)
        notes += [f"pins {number}: {problem}"] if problem else []
        if row is not None:
            pins[pin.position - 1] = row
    promotions = []
    for number, promotion in enumerate(scenario.promotions, 1):
        if promotion.where is not None:
            members, problems = offer.passing(promotion.where, f"promotions {number}: where")
            notes += problems
        else:
            row, problem = _item(promotion.item or "", offer, allowed)
            notes += [f"promotions {number}: {problem}"] if problem else []
            members = np.zeros(offer.items.height, bool)
            members[[] if row is None else [row]] = True
        if members.any():
            promotions.append(Promotion(members, promotion.share or 0.0, promotion.within or 0))
    caps = (scenario.per_brand, scenario.per_category)
    if factors is None and not (pins or promotions) and caps == (None, None):
        return None, notes
    return ListRules(scenario.model_dump_json(), *caps, factors, pins, tuple(promotions)), notes


def options_of(
    scenario: Scenario, config: Config, k: int, chosen: ItemFilter | None, rules: ListRules | None
) -> RecommendOptions:
    """Return the options of a list of `k` items by a scenario, whose filters and rules are `chosen` and `rules`."""
    return RecommendOptions(
        k=k,
        filter=chosen,
        exclude_seen=scenario.exclude_seen,
        diversity=scenario.diversity,
        value=_value(scenario.value, config),
        sources=quotas_of(scenario, config) if scenario.sources else None,
        rules=rules,
    )


def quotas_of(scenario: Scenario, config: Config) -> SourcesConfig:
    """Return how many items each source proposes."""
    return config.sources.model_copy(update=scenario.sources)


def _value(worth: Worth | None, config: Config) -> ValueConfig | None:
    return None if worth is None else config.value.model_copy(update=dict(worth))


def _factors(scenario: Scenario, offer: Offer) -> tuple[Floats | None, list[str]]:
    """Return the factor of each item `[N]`, None where there are no boosts, and notes."""
    if not scenario.boosts:
        return None, []
    factors, notes = np.ones(offer.items.height, np.float32), []
    for number, boost in enumerate(scenario.boosts, 1):
        passing, problems = offer.passing(boost.where, f"boosts {number}: where")
        factors[passing] *= boost.factor
        notes += problems
    return factors, notes


def _item(item_id: str, offer: Offer, allowed: Bools | None) -> tuple[int | None, str]:
    """Return the row of an item that has a position by rule, or None and why it has not."""
    row = offer.row(item_id)
    if row is None:
        return None, f"item {item_id!r} is not in the catalogue, or not available"
    if allowed is not None and not allowed[row]:
        return None, f"item {item_id!r} does not pass the filters"
    return row, ""
