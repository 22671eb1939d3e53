"""What a scenario's file may say, and what is said of mistakes in it."""

from pathlib import Path
from typing import Any

import pytest

from serving.scenarios.definition import Scenario, ScenarioError, checked_name, parse, read_scenario

SAID: dict[str, Any] = {
    "filters": {"price": {"max": 100.0}},
    "boosts": [{"factor": 1.5, "where": {"brand": "b"}}],
    "pins": [{"position": 1, "item": "i1"}],
    "promotions": [{"share": 0.2, "where": {"attributes": {"colour": ["red", "blue"]}}}, {"item": "i2", "within": 3}],
    "per_brand": 2,
    "value": {"click": 0.0, "purchase": 1.0},
}


def test_toml_and_json_say_the_same_and_come_back_as_they_were(tmp_path: Path) -> None:
    """What is left out is not stored."""
    toml, json = tmp_path / "home.toml", tmp_path / "home.json"
    toml.write_text('diversity = 0.2\npins = [{position = 1, item = "i1"}]\nvalue = {click = 0, purchase = 1}\n')
    json.write_text('{"diversity": 0.2, "pins": [{"position": 1, "item": "i1"}], "value": {"click": 0, "purchase": 1}}')
    assert read_scenario(toml) == read_scenario(json)
    assert parse(SAID, "x").as_json() == SAID
    assert Scenario().as_json() == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"divesity": 0.2}, "x: unknown key 'divesity'; did you mean 'diversity'?"),
        ({"boosts": [{"facter": 2, "where": {}}]}, "x: boosts.0: unknown key 'facter'; did you mean 'factor'?"),
        ({"filters": {"brnd": "b"}}, "x: filters: unknown key 'brnd'; did you mean 'brand'?"),
        ({"sources": {"poplar": 3}}, "x: sources: unknown source 'poplar'; did you mean 'popular'?"),
        ({"promotions": [{"item": "i1"}]}, "give item and within, or where and share"),
        ({"promotions": [{"share": 0.6, "where": {}}] * 2}, "their shares add up to 1.2"),
        ({"pins": [{"position": 1, "item": "a"}, {"position": 1, "item": "b"}]}, "two have the same position"),
        ({"pins": [{"position": 1, "item": "a"}, {"position": 2, "item": "a"}]}, "two have the same item"),
        ({"boosts": [{"factor": 0, "where": {}}]}, "greater than 0"),
        ({"pins": [{"position": 0, "item": "a"}]}, "greater than or equal to 1"),
        ([], "x: "),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_was_meant(raw: object, message: str) -> None:
    """In one line."""
    with pytest.raises(ScenarioError) as error:
        parse(raw, "x")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_of_its_kind_is_named(tmp_path: Path) -> None:
    """So is a name that no scenario may have."""
    broken = tmp_path / "broken.toml"
    broken.write_text("diversity = ")
    for path, message in ((tmp_path / "none.toml", "no such file"), (broken, "not a readable TOML file")):
        with pytest.raises(ScenarioError, match=message):
            read_scenario(path)
    with pytest.raises(ScenarioError, match="'Home page' is no name"):
        checked_name("Home page")
