"""The scenarios of the store, as the API shows and changes them.

In: the requests of `serving.api.schemas`. Out: the store with them, and its responses.
"""

from serving.api import schemas
from serving.api.live import ModelHolder, Snapshot
from serving.scenarios import kept
from serving.scenarios.applied import Offer, notes_of
from serving.scenarios.definition import Scenario, parse
from serving.store.store import Store, StoredScenario


class Scenarios:
    """The versions of scenarios, and which of them are on."""

    def __init__(self, holder: ModelHolder, store: Store) -> None:
        self.holder, self.store = holder, store

    def all(self) -> schemas.ScenariosResponse:
        """Return all scenarios, and which of their versions are on."""
        rows = [
            schemas.ScenarioState(name=name, on=on, latest=latest)
            for name, on, latest in kept.overview(self.store.scenarios())
        ]
        return schemas.ScenariosResponse(scenarios=rows)

    def get(self, name: str, version: int | None = None) -> schemas.ScenarioVersion:
        """Return a version of a scenario: by default that which is on, else the latest.

        Raises:
            UnknownScenarioError: there is no such version.
        """
        return self._version(kept.shown_version(self.store, name, version))

    def put(self, name: str, scenario: Scenario) -> schemas.ScenarioVersion:
        """Store a further version of a scenario, which is not on yet.

        Raises:
            FilterError: a condition does not fit the catalogue.
        """
        notes_of(scenario, offer_of(self.holder.snapshot))
        version = self.store.add_scenario(name, scenario.as_json())
        return self.get(name, version)

    def switch(self, name: str, switch: schemas.ScenarioSwitch) -> schemas.ScenarioVersion:
        """Switch a version of a scenario on, the latest by default, or have none on.

        Raises:
            UnknownScenarioError: there is no such version.
        """
        if switch.on:
            kept.switch_on(self.store, name, switch.version)
        else:
            kept.switch_off(self.store, name)
        self.holder.take_scenarios()
        return self.get(name, switch.version)

    def delete(self, name: str) -> schemas.DeletedScenario:
        """Delete a scenario with all its versions.

        Raises:
            UnknownScenarioError: there is none.
        """
        deleted = kept.delete(self.store, name)
        self.holder.take_scenarios()
        return schemas.DeletedScenario(name=name, versions=deleted)

    def _version(self, row: StoredScenario) -> schemas.ScenarioVersion:
        scenario = parse(row.definition, f"scenario {row.name!r}, version {row.version}")
        notes = notes_of(scenario, offer_of(self.holder.snapshot))
        return schemas.ScenarioVersion(
            name=row.name, version=row.version, on=row.is_on, at=row.at, definition=scenario, notes=notes
        )


def offer_of(snapshot: Snapshot) -> Offer:
    """Return the items that scenarios are applied to."""
    return Offer(snapshot.lookup.retriever.items, snapshot.lookup.retriever.available)
