"""Scenarios in the store: each edit is a further version, one version of a name is on or none is.

In: a `Store`. Out: what is on (`active`), versions as tables, and errors that name the scenarios there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.table import Table

from recsys.errors import suggest
from serving.scenarios.definition import Scenario, ScenarioError, parse
from serving.store.store import Store, StoredScenario


class UnknownScenarioError(ScenarioError):
    """The store has no such scenario, or no such version of it."""


@dataclass(frozen=True)
class ActiveScenario:
    """A version of a scenario that lists are made by."""

    name: str
    version: int | None
    """None for a draft."""
    scenario: Scenario


def active(store: Store) -> dict[str, ActiveScenario]:
    """Return the scenarios that are on, by name.

    Raises:
        ScenarioError: one says something that this version of the program does not know.
    """
    return {row.name: _read(row) for row in store.scenarios(on=True)}


def active_scenario(known: Mapping[str, ActiveScenario], name: str) -> ActiveScenario:
    """Return the scenario `name` of those that are on.

    Raises:
        ScenarioError: it is not one of them.
    """
    if name not in known:
        raise ScenarioError(f"scenario: {name!r} is not on{_hint(name, known)}")
    return known[name]


def versions(store: Store, name: str) -> list[StoredScenario]:
    """Return all versions of a scenario, the latest last.

    Raises:
        UnknownScenarioError: there is none.
    """
    found = store.scenarios(name)
    if not found:
        raise UnknownScenarioError(
            f"there is no scenario {name!r}{_hint(name, {row.name for row in store.scenarios()})}"
        )
    return found


def shown_version(store: Store, name: str, version: int | None = None) -> StoredScenario:
    """Return a version of a scenario: by default that which is on, else the latest.

    Raises:
        UnknownScenarioError: there is no such version.
    """
    found = versions(store, name)
    if version is None:
        return next((row for row in found if row.is_on), found[-1])
    for row in found:
        if row.version == version:
            return row
    raise UnknownScenarioError(f"scenario {name!r} has no version {version}; its latest is {found[-1].version}")


def stored(store: Store, name: str, version: int | None = None) -> ActiveScenario:
    """Return what `shown_version` finds, ready to make lists by."""
    return _read(shown_version(store, name, version))


def switch_on(store: Store, name: str, version: int | None = None) -> StoredScenario:
    """Switch on a version of a scenario, the latest by default, and return it.

    Raises:
        UnknownScenarioError: there is no such version.
    """
    chosen = versions(store, name)[-1] if version is None else shown_version(store, name, version)
    if not store.switch_scenario(name, chosen.version):
        raise UnknownScenarioError(f"scenario {name!r} was deleted meanwhile")
    return shown_version(store, name, chosen.version)


def switch_off(store: Store, name: str) -> None:
    """Have no version of a scenario on.

    Raises:
        UnknownScenarioError: there is none.
    """
    versions(store, name)
    store.switch_scenario(name, None)


def roll_back(store: Store, name: str) -> StoredScenario:
    """Switch on the version that was on last, but for the one that is on, and return it.

    Raises:
        UnknownScenarioError: no other version was on.
    """
    used = [row for row in versions(store, name) if row.switched_on is not None and not row.is_on]
    if not used:
        raise UnknownScenarioError(
            f"scenario {name!r}: no other version was on before; `recsys scenarios history {name}`"
        )
    return switch_on(store, name, max(used, key=lambda row: row.switched_on or 0).version)


def delete(store: Store, name: str) -> int:
    """Delete a scenario with all its versions; return how many there were.

    Raises:
        UnknownScenarioError: there is none.
    """
    versions(store, name)
    return store.delete_scenario(name)


def overview(rows: Iterable[StoredScenario]) -> list[tuple[str, int | None, int]]:
    """Return name, the version that is on, and the latest version of each scenario."""
    on: dict[str, int | None] = {}
    latest: dict[str, int] = {}
    for row in rows:
        latest[row.name] = row.version
        on[row.name] = row.version if row.is_on else on.get(row.name)
    return [(name, on[name], latest[name]) for name in latest]


def table_of(rows: Iterable[StoredScenario]) -> Table:
    """Return versions as a table."""
    table = Table("scenario", "version", "on", "stored", "switched on", "says")
    for row in rows:
        moments = [_moment(row.at), _moment(row.switched_on)]
        table.add_row(row.name, str(row.version), "yes" if row.is_on else "", *moments, ", ".join(row.definition))
    return table


def _read(row: StoredScenario) -> ActiveScenario:
    return ActiveScenario(row.name, row.version, parse(row.definition, f"scenario {row.name!r}, version {row.version}"))


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = suggest(name, names) if names else ""
    listed = f"there are: {', '.join(names)}" if names else "there are none; `recsys scenarios set` stores one"
    return f"{near} {listed}" if near.startswith("; did") else f"; {listed}"


def _moment(at: int | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
