"""Spaces: what a file may say, what is refused in one line, and configurations that survive being written."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import Config, as_toml, load_config
from recsys.errors import RecsysError
from training.search.space import Choices, Range, kind_of, labelled, read_space, unlabelled, value_of, with_values

RANGES: dict[str, tuple[Any, Any]] = {
    "ranker.leaves": (2, 200),
    "ranker.trees": (1, 500),
    "ranker.learning_rate": (1e-6, 1.0),
    "sources.lexical": (0, 500),
    "value.purchase": (0.0, 9.0),
}


def written(tmp_path: Path, text: str) -> str:
    """Write a file and return its name."""
    path = tmp_path / "space.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Return what a space's file says, by key."""
    space = {}
    for key in draw(st.lists(st.sampled_from(sorted(RANGES)), min_size=1, unique=True)):
        low, high = RANGES[key]
        numbers = st.integers(low, high) if isinstance(low, int) else st.floats(low, high)
        bounds = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
        ranged = {"low": bounds[0], "high": bounds[1], "log": draw(st.booleans()) and bounds[0] > 0}
        space[key] = draw(st.one_of(st.just(ranged), st.lists(numbers, min_size=1, max_size=4, unique=True)))
    return space


@given(said=spaces())
def test_a_space_is_what_its_file_says_and_holds_the_configuration(
    said: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Labels of choices mean the values again, and every bound and choice is a valid configuration."""
    sections: dict[str, dict[str, Any]] = {}
    for key, domain in said.items():
        sections.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = domain
    space = read_space(written(tmp_path_factory.mktemp("space"), tomli_w.dumps(sections)), Config())
    assert space.keys() == said.keys() and kind_of(space) == "ranker"
    for key, domain in space.items():
        own = value_of(Config(), key)
        if isinstance(domain, Range):
            assert (domain.low, domain.high) == (min(said[key]["low"], own), max(said[key]["high"], own))
            assert domain.log == said[key]["log"] and domain.whole == isinstance(own, int)
        else:
            assert own in domain.values and set(said[key]) <= set(domain.values)
        for value in domain.examples:
            assert value_of(with_values(Config(), {key: value}), key) == value
    default = {key: value_of(Config(), key) for key in space}
    assert unlabelled(space, labelled(space, default)) == default


@pytest.mark.parametrize("name", ["ranker", "interest"])
@pytest.mark.parametrize("changes", [{}, {"ranker.kind": "torchrec"}, {"sources.taste": 0, "interest.dropout": 0.0}])
def test_a_ready_made_space_reaches_around_the_configuration(name: str, changes: dict[str, Any]) -> None:
    """What is turned off stays off, and all that it holds is valid."""
    config = with_values(Config(), changes)
    space = read_space(name, config)
    assert kind_of(space) == name and not set(space) & {key for key, value in changes.items() if value == 0}
    for key, domain in space.items():
        low, high = domain.examples
        assert low < value_of(config, key) < high
        for value in (low, high):
            with_values(config, {key: value})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[ranker]\nleafs = [3, 7]", r"unknown key ranker\.leafs; did you mean 'leaves'\?"),
        ("[rankers]\nleaves = [3, 7]", r"unknown section 'rankers'; did you mean 'ranker'\?"),
        ("[data]\nvalid_share = [0.1, 0.2]", r"data\.valid_share is not searched, since it decides which requests"),
        ("[encoder]\nmax_tokens = [32, 64]", r"encoder\.max_tokens is not searched, since trials share"),
        ("[ranker]\nleaves = 7", r"write \[value, value, …\] or \{low = …"),
        ("[ranker]\nleaves = []", r"write \[value, value, …\]"),
        ("[ranker]\nleaves = {low = 3}", r"write \[value, value, …\] or"),
        ("[ranker]\nleaves = {low = 3.5, high = 9}", "not a range of int numbers"),
        ("[ranker]\nleaves = {low = 9, high = 3}", "low must be below high"),
        ("[ranker]\nepochs = {low = 0, high = 3, log = true}", "above 0 where log"),
        ("[ranker]\nkind = {low = 1, high = 3}", "not a range of"),
        ("[ranker]\nleaves = [1, 7]", r"ranker\.leaves: .* greater than or equal to 2 \(got 1\)"),
        ("[ranker]\nkind = ['forest']", r"ranker\.kind: .*got 'forest'"),
        ("[ranker]\nleaves = [3]\n[interest]\nlayers = [1]", "search one after the other"),
        ("", "no keys"),
    ],
)
def test_what_is_no_space_is_one_line(text: str, problem: str, tmp_path: Path) -> None:
    """With the file, the key and what to write."""
    with pytest.raises(RecsysError, match=problem) as raised:
        read_space(written(tmp_path, text), Config())
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


def test_choices_may_be_lists(tmp_path: Path) -> None:
    """As columns of the items are; the configuration's own value is among them."""
    space = read_space(written(tmp_path, "[ranker]\nattributes = [['weight'], ['weight', 'depth']]"), Config())
    assert space == {"ranker.attributes": Choices(((), ("weight",), ("weight", "depth")))}
    assert with_values(Config(), {"ranker.attributes": ["weight"]}).ranker.attributes == ("weight",)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    rate=st.floats(1e-12, 1e6),
    attributes=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    residual=st.booleans(),
)
def test_a_configuration_survives_being_written_as_toml(
    name: str, rate: float, attributes: list[str], residual: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever texts are in it; what is as by default is not written."""
    values = {"encoder.name": name, "ranker.learning_rate": rate, "ranker.attributes": attributes}
    config = with_values(Config(), values | {"interest.id_residual": residual})
    path = tmp_path_factory.mktemp("config") / "best.toml"
    path.write_text(as_toml(config), encoding="utf-8")
    assert load_config(path) == config
    assert as_toml(Config()) == ""
