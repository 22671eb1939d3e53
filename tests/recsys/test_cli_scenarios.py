"""`recsys scenarios` and `recsys recommend --scenario`, as a merchandiser calls them."""

import json
from pathlib import Path

import pytest

from serving.scenarios.kept import active
from serving.store.store import Store
from tests.command_line import run


def test_a_scenario_is_stored_switched_on_rolled_back_and_deleted(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command says in one line what is so now."""
    file, store = tmp_path / "home.toml", f"sqlite:///{tmp_path}/store.db"
    file.write_text('diversity = 0.2\npins = [{position = 1, item = "gone"}]\n')

    def scenarios(*arguments: str) -> str:
        code, out, err = run(capsys, "scenarios", *arguments, "--store", store)
        assert code == 0, err
        return out

    stored = scenarios("set", "home", str(file), "--model", str(tiny))
    assert stored == (
        "home: version 1 is stored; `recsys scenarios on home` switches it on\n"
        "  pins 1: item 'gone' is not in the catalogue, or not available\n"
    )
    scenarios("on", "home")
    file.write_text("diversity = 0.4\n")
    scenarios("set", "home", str(file), "--model", str(tiny))
    assert scenarios("on", "home") == "home: version 2 is on\n"
    assert json.loads(scenarios("show", "home")) == {"diversity": 0.4}
    assert scenarios("rollback", "home") == "home: version 1 is on\n"
    assert scenarios("history", "home").count("home") == 2 and "home" in scenarios("list")
    assert scenarios("off", "home") == "home is off\n"
    assert active(Store(store)) == {}
    assert scenarios("delete", "home") == "home: 2 versions are deleted\n"


def test_a_preview_shows_the_list_of_a_draft_and_what_cannot_be_done(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is stored."""
    file, store = tmp_path / "home.toml", f"sqlite:///{tmp_path}/store.db"
    file.write_text('pins = [{position = 2, item = "i38"}, {position = 3, item = "gone"}]\n')
    code, out, err = run(
        capsys, "scenarios", "preview", "home", "--user", "u3", "--k", "4", "--file", str(file), "--model", str(tiny),
        "--store", store,
    )  # fmt: skip
    assert code == 0, err
    rows = [line.split("│")[1:3] for line in out.splitlines() if line.startswith("│")]
    rows = [cells for cells in rows if cells[0].strip()]  # a long title takes several lines
    assert len(rows) == 4 and [cell.strip() for cell in rows[1]] == ["2", "i38"]
    assert "pins 2: item 'gone' is not in the catalogue, or not available" in out
    assert Store(store).scenarios() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenarios", "set", "home", "wrong.toml"], "wrong.toml: unknown key 'divesity'; did you mean 'diversity'?"),
        (["scenarios", "set", "Home!", "wrong.toml"], "'Home!' is no name of a scenario"),
        (["scenarios", "set", "home", "columns.toml"], "filters.colour: the items have no 'colour'"),
        (["scenarios", "on", "home"], "there is no scenario 'home'; there are none"),
        (["recommend", "data", "--out", "x", "--scenario", "home"], "scenario: 'home' is not on; there are none"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_stored(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """With the way out."""
    from tests.worlds import write_dataset

    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data")
    Path("wrong.toml").write_text("divesity = 0.2\n")
    Path("columns.toml").write_text("filters = {attributes = {colour = 'red'}}\n")
    model = ["--model", str(tiny)] if arguments[1] != "on" else []
    code, _, err = run(capsys, *arguments, *model, "--store", "sqlite:///store.db")
    assert code == 1 and message in err and len(err.strip().splitlines()) == 1
    assert Store("sqlite:///store.db").scenarios() == []
