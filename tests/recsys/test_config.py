"""Configuration: defaults, overrides, and mistakes that suggest the correction."""

from pathlib import Path

import pytest

from recsys.config import Config, load_config, reference
from recsys.errors import RecsysError, UsageError


def test_file_and_overrides_are_applied_on_top_of_the_defaults(tmp_path: Path) -> None:
    """An override wins over the file, the file over the defaults."""
    (tmp_path / "c.toml").write_text("[interest]\nepochs = 3\nlayers = 1\n")
    config = load_config(
        tmp_path / "c.toml", ("interest.epochs=7", "encoder.name=some/model", "ranker.attributes=['w']")
    )
    assert (config.interest.epochs, config.interest.layers, config.encoder.name) == (7, 1, "some/model")
    assert config.ranker.attributes == ("w",)
    assert config.sources == Config().sources


def test_the_resolved_configuration_is_read_back_the_same() -> None:
    """What the bundle keeps says everything."""
    config = load_config(None, ("value.price_power=0.5",))
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("interest.epoch=3", r"interest\.epoch; did you mean 'epochs'"),
        ("intrest.epochs=3", r"'intrest'; did you mean 'interest'"),
        ("interest.epochs=0", r"interest\.epochs: .*greater than or equal to 1"),
        ("interest.epochs=many", r"interest\.epochs: .*integer.*'many'"),
        ("value.click=nan", r"value\.click: .*"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, expected: str) -> None:
    """One line says which key, and what would do."""
    with pytest.raises(RecsysError, match=expected) as raised:
        load_config(None, (override,))
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("override", ["epochs=3", "interest.epochs", "=3", "interest.=3"])
def test_an_override_of_the_wrong_form_is_wrong_usage(override: str) -> None:
    """Exit code 2 and an example of the form."""
    with pytest.raises(UsageError, match=r"expected section\.key=value"):
        load_config(None, (override,))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"[interest", "not a readable TOML"),
        (b"interest = 3", "is a section"),
        (b"\xff", "TOML"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """The message starts with the file."""
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecsysError, match=rf"c\.toml.*{expected}"):
        load_config(path)


def test_the_documentation_lists_every_key_as_it_is() -> None:
    """`docs/configuration.md` is what the code says."""
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference() + "\n"
