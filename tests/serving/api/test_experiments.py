"""Experiments through the API: whose lists come from which model, what is kept of it, and what the report says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.api.service import Service
from serving.experiments.assignment import arm_of
from serving.experiments.definition import read_experiment
from serving.experiments.running import start_experiment, stop_experiment
from serving.scenarios.kept import switch_off, switch_on
from serving.store.export import impression_rows
from serving.store.store import ImpressionList, Store
from tests.command_line import run
from tests.worlds import client_of, holder_of, with_config

USERS = [f"user {number}" for number in range(40)]


@pytest.fixture
def rival(tiny: Path, tmp_path: Path) -> Path:
    """Return the folder of another model, which sorts by purchases alone."""
    return with_config(tiny, tmp_path / "rival", value={"click": 0.0, "purchase": 1.0})


@pytest.fixture
def served(tiny: Path, store: Store) -> Iterator[tuple[TestClient, Service]]:
    """Return a client and the service behind it, which looks for experiments when it is told to."""
    app = create_app(holder_of(tiny, store), store, seed=0)
    yield client_of(app), app.state.workers.service
    app.state.workers.service.close()


def written(folder: Path, rival: Path, *, name: str = "try", **more: object) -> Path:
    """Return a file with an experiment of two arms, 40 % of users each."""
    lines = [f"name = {json.dumps(name)}", *(f"{key} = {json.dumps(value)}" for key, value in more.items())]
    arms = f'[arms.own]\nshare = 0.4\n[arms.rival]\nshare = 0.4\nmodel = "{rival}"\n'
    path = folder / f"{name}.toml"
    path.write_text("\n".join([*lines, arms]))
    return path


def kept(service: Service, store: Store) -> dict[str, ImpressionList]:
    """Return the lists that were kept, by user, once all are written."""
    service.close()
    return {one.user_id or "": one for one in store.every_list()}


def test_users_get_the_model_of_their_arm_and_the_kept_list_says_so(
    served: tuple[TestClient, Service], store: Store, rival: Path, tmp_path: Path, tiny: Path
) -> None:
    client, service = served
    experiment = start_experiment(store, written(tmp_path, rival))
    before = client.post("/v1/recommend", json={"user_id": USERS[0]}).json()
    assert before["experiment"] is None  # not yet taken up
    assert service.experiments
    service.experiments.follow()
    for user in USERS:
        for route, more in (("recommend", {"k": 3}), ("rank", {"candidates": ["i1", "i2"]})):
            answer = client.post(f"/v1/{route}", json={"user_id": user, **more}).json()
            arm = arm_of(experiment, user)
            assert (answer["experiment"], answer["arm"]) == (("try", arm) if arm else (None, None))
            assert answer["model"] == str(rival if arm == "rival" else tiny)
    anyone = client.post("/v1/recommend", json={"k": 3}).json()
    assert anyone["experiment"] is None
    assert {(one.experiment, one.arm) for one in kept(service, store).values()} == {
        ("try", "own"), ("try", "rival"), (None, None),
    }  # fmt: skip


def test_a_stopped_experiment_is_left(
    served: tuple[TestClient, Service], store: Store, rival: Path, tmp_path: Path
) -> None:
    client, service = served
    experiment = start_experiment(store, written(tmp_path, rival))
    user = next(user for user in USERS if arm_of(experiment, user) == "rival")
    assert service.experiments
    for arm in ("rival", None):
        service.experiments.follow()
        assert client.post("/v1/recommend", json={"user_id": user}).json()["arm"] == arm
        if arm:
            stop_experiment(store, "try")


def test_nobody_is_in_an_experiment_whose_model_is_gone(
    served: tuple[TestClient, Service], store: Store, rival: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or its arms would not be comparable; the server goes on, and says so once."""
    client, service = served
    start_experiment(store, written(tmp_path, rival))
    (rival / "manifest.json").unlink()
    assert service.experiments
    for _ in range(3):
        service.experiments.follow()
    answers = [client.post("/v1/recommend", json={"user_id": user}) for user in USERS]
    assert {(answer.status_code, answer.json()["experiment"]) for answer in answers} == {(200, None)}
    assert sum("does not run here" in record.message for record in caplog.records) == 1


def test_an_interleaved_list_has_items_of_both_arms_and_clicks_are_credited(
    served: tuple[TestClient, Service], store: Store, rival: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, service = served
    experiment = start_experiment(store, written(tmp_path, rival, interleave=True))
    assert service.experiments
    service.experiments.follow()
    inside = [user for user in USERS if arm_of(experiment, user)]
    answers = {user: client.post("/v1/recommend", json={"user_id": user, "k": 8}).json() for user in inside}
    lists = kept(service, store)
    events = []
    for user, answer in answers.items():
        teams = lists[user].teams
        assert answer["experiment"] == "try" and answer["arm"] is None and teams
        assert lists[user].items == [item["item_id"] for item in answer["items"]]
        assert len(set(lists[user].items)) == 8 and teams.count("own") == teams.count("rival") == 4
        item = lists[user].items[teams.index("rival")]
        events.append({"user_id": user, "item_id": item, "request_id": answer["request_id"]})
    assert client.post("/v1/events", json={"events": events}).status_code == 200
    rows = impression_rows(store)
    assert rows.select("item_id", "arm").rows() == [
        (item, arm) for one in store.every_list() for item, arm in zip(one.items, one.teams or (), strict=True)
    ]
    found = report(store, capsys)
    assert found["preference"]["value"] == 1 and any("the second arm won 1" in note for note in found["notes"])


def report(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    code, printed, _ = run(
        capsys, "experiments", "report", "try", "--json", "--store", f"sqlite:///{store.url.database}"
    )
    assert code == 0
    return json.loads(printed)  # type: ignore[no-any-return]


def test_the_report_counts_what_came_of_each_arm(
    served: tuple[TestClient, Service], store: Store, rival: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, service = served
    experiment = start_experiment(store, written(tmp_path, rival, minimum_days=0.0000001))
    assert service.experiments
    service.experiments.follow()
    answers = {user: client.post("/v1/recommend", json={"user_id": user, "k": 5}).json() for user in USERS}
    bought = [user for user in USERS if arm_of(experiment, user) == "rival"][:3]
    events = [
        {"user_id": user, "item_id": answers[user]["items"][0]["item_id"], "event_type": "purchase", "value": 20.0,
         "request_id": answers[user]["request_id"]}
        for user in bought
    ]  # fmt: skip
    kept(service, store)
    assert client.post("/v1/events", json={"events": events}).status_code == 200
    found = report(store, capsys)
    own, other = found["arms"]
    users = {arm: sum(arm_of(experiment, user) == arm for user in USERS) for arm in ("own", "rival")}
    assert [(arm["arm"], arm["users"], arm["lists"]) for arm in (own, other)] == [
        (arm, n, n) for arm, n in users.items()
    ]
    rates = {name: rate["rate"]["value"] for name, rate in other["rates"].items()}
    assert rates == pytest.approx(
        {"click-through": 3 / (5 * users["rival"]), "purchases per user": 3 / users["rival"],
         "value per user": 60 / users["rival"]}
    )  # fmt: skip
    assert own["rates"]["value per user"] == {"rate": {"value": 0, "low": 0, "high": 0}, "difference": None}
    code, printed, _ = run(capsys, "experiments", "report", "try", "--store", f"sqlite:///{store.url.database}")
    assert code == 0 and "rival: more value per user than own" not in printed  # three purchases are too few


def test_an_arm_may_be_another_scenario(
    served: tuple[TestClient, Service], store: Store, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """In place of the one that requests name; it must be on, and a rank has none."""
    client, service = served
    file = tmp_path / "kinds.toml"
    file.write_text('name = "kinds"\n[arms.plain]\nshare = 0.5\n[arms.pinned]\nshare = 0.5\nscenario = "pinned"\n')
    assert "pinned" in refused(lambda: start_experiment(store, file))
    switch_on(store, "pinned", store.add_scenario("pinned", {"pins": [{"position": 1, "item": "i7"}]}))
    experiment = start_experiment(store, file)
    assert service.experiments
    service.experiments.follow()
    service.holder.take_scenarios()
    for user in USERS:
        answer = client.post("/v1/recommend", json={"user_id": user, "k": 3}).json()
        if arm_of(experiment, user) == "pinned":
            assert answer["items"][0]["item_id"] == "i7"
    assert {(one.arm, one.scenario) for one in kept(service, store).values()} == {("plain", None), ("pinned", "pinned")}
    switch_off(store, "pinned")
    service.holder.take_scenarios()
    assert {client.post("/v1/recommend", json={"user_id": user}).status_code for user in USERS} == {200}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name"),
        ("name = 1", "name"),
        ('name = "a"\n[arms.x]\nshare = 1', "at least 2"),
        ('name = "a"\n[arms.x]\nshare = 0.9\n[arms.y]\nshare = 0.2\nmodel = "m"', "add up to 1.1"),
        ('name = "a"\n[arms.x]\nshare = 0.5\n[arms.y]\nshare = 0.5', "two arms are the same"),
        ('name = "a"\n[arms.x]\nshare = 0.5\n[arms.y]\nshare = 0.5\nmodels = "m"', "models"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_in_one_line(
    text: str, said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    message = refused(lambda: read_experiment(tmp_path / "wrong.toml"))
    assert said in message and "wrong.toml" in message


def test_one_experiment_runs_at_a_time_and_names_are_not_used_again(
    store: Store, rival: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    start_experiment(store, written(tmp_path, rival))
    second = written(tmp_path, rival, name="second")
    assert "try runs" in refused(lambda: start_experiment(store, second))
    assert "did you mean" in refused(lambda: stop_experiment(store, "trie"))
    stop_experiment(store, "try")
    assert "already" in refused(lambda: start_experiment(store, written(tmp_path, rival)))
    start_experiment(store, second)
    assert "does-not-exist" in refused(
        lambda: start_experiment(store, written(tmp_path, Path("does-not-exist"), name="x"))
    )


@pytest.fixture
def refused() -> Callable[..., str]:
    """Return what calls something that must be refused, and gives the message."""

    def call(step: Callable[[], object]) -> str:
        with pytest.raises(RecsysError) as raised:
            step()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return call
