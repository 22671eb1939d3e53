"""Scenarios in the store: versions, which one is on, and the way back."""

from collections.abc import Iterator

import pytest

from serving.scenarios import kept
from serving.scenarios.definition import ScenarioError
from serving.store.store import Store


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Return an empty store."""
    opened = Store(url)
    yield opened
    opened.close()


def on(store: Store) -> dict[str, int | None]:
    return {name: one.version for name, one in kept.active(store).items()}


def test_each_edit_is_a_further_version_and_one_of_them_is_on(store: Store) -> None:
    """An edit changes no list before it is switched on."""
    assert [store.add_scenario("home", {"diversity": step / 10}) for step in range(3)] == [1, 2, 3]
    assert store.add_scenario("cart", {}) == 1
    assert on(store) == {}
    assert kept.switch_on(store, "home").version == 3
    assert kept.switch_on(store, "home", 2).version == 2
    assert on(store) == {"home": 2} and kept.active(store)["home"].scenario.diversity == 0.1
    assert kept.shown_version(store, "home").version == 2
    assert kept.overview(store.scenarios()) == [("cart", None, 1), ("home", 2, 3)]
    kept.switch_off(store, "home")
    assert on(store) == {} and kept.shown_version(store, "home").version == 3


def test_a_rollback_switches_on_what_was_on_before(store: Store) -> None:
    """A version that never was on is passed over; a second rollback comes back."""
    for _ in range(3):
        store.add_scenario("home", {})
    kept.switch_on(store, "home", 1)
    with pytest.raises(ScenarioError, match="no other version was on before"):
        kept.roll_back(store, "home")
    kept.switch_on(store, "home", 3)
    assert kept.roll_back(store, "home").version == 1 and on(store) == {"home": 1}
    assert kept.roll_back(store, "home").version == 3
    kept.switch_off(store, "home")
    assert kept.roll_back(store, "home").version == 3


def test_a_deleted_scenario_is_gone_with_its_versions(store: Store) -> None:
    """Errors name the scenarios that there are."""
    store.add_scenario("home", {})
    store.add_scenario("home", {})
    store.add_scenario("cart", {})
    assert kept.delete(store, "home") == 2
    for call in (kept.delete, kept.switch_on, kept.switch_off, kept.roll_back, kept.shown_version):
        with pytest.raises(kept.UnknownScenarioError, match="there is no scenario 'home'; there are: cart"):
            call(store, "home")
    with pytest.raises(kept.UnknownScenarioError, match="has no version 7; its latest is 1"):
        kept.switch_on(store, "cart", 7)


def test_a_stored_scenario_that_says_something_unknown_is_named(store: Store) -> None:
    """As one of a newer program may."""
    store.add_scenario("home", {"divisity": 1})
    kept.switch_on(store, "home")
    with pytest.raises(ScenarioError, match="scenario 'home', version 1: unknown key 'divisity'"):
        kept.active(store)
