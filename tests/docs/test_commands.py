"""Commands and configuration keys in the documentation exist, with every option that is shown."""

import re
from pathlib import Path

import click
import pytest

from recsys.cli import cli
from recsys.config import Config, load_config
from tests.docs.pages import PAGES, ROOT, Page, words

PROGRAMS = {"curl", "export", "pip", "cd", "git", "mlflow", "source", "run", "uv", "openapi-python-client"}
PROGRAMS |= {"docker", "printf", "useradd", "cp", "systemctl", "journalctl", "ray"}
"""What else stands in shell blocks."""


def parse(command: click.Command, arguments: list[str]) -> click.Context:
    """Parse `arguments` by the real command line, without running anything.

    Raises:
        click.UsageError: no such command or option, a missing argument, or a value of another kind.
    """
    context = command.make_context(command.name, list(arguments))
    while isinstance(context.command, click.Group):
        name, chosen, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert chosen is not None
        context = chosen.make_context(name, rest, parent=context)
    return context


def is_option(command: click.Command, text: str) -> bool:
    """Return whether `command` has the option."""
    return text in ("--help", "-h") or any(text in option.opts for option in command.params)


def check(command: str) -> None:
    """Fail if a line of a shell block does not call something that exists."""
    program, *arguments = words(command)
    if program == "recsys":
        context = parse(cli, arguments)
        load_config(None, context.params.get("sets", ()))
    elif program == "make":
        assert arguments[0] in targets(), command
    elif Path(program).name in ("python", "python3"):
        check_python(arguments)
    else:
        assert Path(program).name in PROGRAMS or "=" in program, command
        if program == "docker" and "run" in arguments:  # the image's entry point is `recsys`
            parse(cli, arguments[arguments.index("recsys") + 1 :])


def check_python(arguments: list[str]) -> None:
    """Fail if `python -m MODULE` names none of the repository."""
    if arguments[0] == "-m" and arguments[1].split(".")[0] in (
        "recsys",
        "features",
        "serving",
        "training",
        "benchmarks",
    ):
        path = ROOT / arguments[1].replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), arguments[1]


def is_history(page: Page) -> bool:
    """Return whether the page may name what is gone."""
    return page.path.name == "CHANGELOG.md" or "decisions" in page.path.parts


def targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_of_shell_blocks_are_what_the_command_line_takes(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, option and value of a block passes the real parsers."""
    monkeypatch.chdir(tmp_path)
    for command in page.commands:
        check(re.sub(r" \[[^]]*\]", "", command))  # what may be left out


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_between_backticks_exist_with_their_options(page: Page) -> None:
    """`recsys …` and `make …` in a sentence may lack arguments, but not exist otherwise."""
    for span in page.spans:
        program, *rest = span.split()
        if program == "make" and rest:
            assert rest[0] in targets(), span
        if program != "recsys" or not rest or rest[0] == "COMMAND":
            continue
        command: click.Command = cli
        while rest and isinstance(command, click.Group):
            name = rest.pop(0)
            assert name in command.commands or is_option(command, name), span
            command = command.commands.get(name, command)
        for option in (word for word in rest if word.startswith("-")):
            assert is_option(command, option), span


@pytest.mark.parametrize("page", [page for page in PAGES if not is_history(page)], ids=str)
def test_configuration_keys_between_backticks_exist(page: Page) -> None:
    """`section.key` is a key of the configuration."""
    for span in page.spans:
        key = re.match(r"(?:--set )?(\w+)\.([a-z_]+)(?= ?=|$)", span)
        if key and key[1] in Config.model_fields and key[2] not in ("json", "md", "npz", "py", "safetensors"):
            assert key[2] in type(getattr(Config(), key[1])).model_fields, span


def test_the_version_is_the_same_everywhere() -> None:
    """`recsys.__version__`, pyproject.toml and the newest section of the changelog name one version."""
    from recsys import __version__

    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == __version__
