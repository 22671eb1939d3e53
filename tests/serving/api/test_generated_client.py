"""A client that is generated as docs/serving.md says, used against a running server as users of the API would."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serving.api.access.keys import create_key
from serving.api.app import create_app
from serving.store.store import Store
from tests.docs.pages import PAGES, words
from tests.worlds import holder_of, listening

GUIDE = next(page for page in PAGES if str(page) == "docs/serving.md")
PACKAGE = "recsys_client"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return an empty store."""
    return Store(f"sqlite:///{tmp_path_factory.mktemp('client')}/store.db")


@pytest.fixture(scope="module")
def app(tiny: Path, store: Store) -> FastAPI:
    """Return an application of the small bundle."""
    return create_app(holder_of(tiny, store), store)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    """Return the address of the application, which listens on this machine."""
    with listening(app) as address:
        yield address


@pytest.fixture(scope="module")
def folder(app: FastAPI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the generated package, which can be imported."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(app.openapi()))
    ((_, *arguments),) = [words(line) for line in GUIDE.commands if line.startswith("openapi-python-client ")]
    with_ruff = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *arguments, "--fail-on-warning"],
        cwd=folder,
        env=os.environ | {"PATH": with_ruff},
        check=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Any:
    """Return the generated types."""
    return importlib.import_module(f"{PACKAGE}.models")


@pytest.fixture(scope="module")
def client(folder: Path, url: str) -> Any:
    """Return a generated client, which raises where the server answers what is not documented."""
    package = importlib.import_module(PACKAGE)
    return package.AuthenticatedClient(base_url=url, token="none", raise_on_unexpected_status=True)


def call(operation: str, **arguments: Any) -> Any:
    """Call an operation by its tag and name, and return what the client reads of the answer."""
    return importlib.import_module(f"{PACKAGE}.api.{operation}").sync(**arguments)


def test_lists_are_read_as_their_types(client: Any, models: Any) -> None:
    """A list for a user with conditions and reasons, and a ranking of a history."""
    context = models.Context(time=1_702_000_000_000_000)
    filters = models.Filters(price=models.Range(max_=20))
    body = models.RecommendRequest(user_id="u3", k=4, filters=filters, context=context, explain=True)
    listed = call("lists.recommend", client=client, body=body)
    assert isinstance(listed, models.RecommendResponse) and len(listed.items) == 4
    assert listed.items[0].reasons.features[0].feature and listed.user_id == "u3" and listed.notes == []
    history = ["i7", models.HistoryEvent(item_id="i8", event_type=models.HistoryEventEventType.PURCHASE)]
    body = models.RankRequest(history=history, candidates=["i1", "i2", "nothing"])
    ranked = call("lists.rank", client=client, body=body)
    assert {item.item_id for item in ranked.items} == {"i1", "i2"} and ranked.unknown_items == ["nothing"]
    similar = call("lists.similar", client=client, item_id="i1", k=3)
    assert [type(item) for item in similar.items] == 3 * [models.SimilarItem]


def test_events_and_items_that_are_sent_count(client: Any, models: Any) -> None:
    """An event with attributes is stored once; an item, its id with a slash, can be searched for until it is deleted."""
    attributes = models.EventAttributes.from_dict({"device": "phone"})
    event = models.Event(event_id="e-1", user_id="u3", item_id="i9", attributes=attributes)
    body = models.EventsRequest(events=[event])
    assert call("changes.add_events", client=client, body=body).accepted == 1
    assert call("changes.add_events", client=client, body=body).duplicates == 1
    item = models.Item(item_id="new/1", title="A walnut gramophone", price=49.0)
    assert call("changes.put_items", client=client, body=models.ItemsRequest(items=[item])).changed == 1
    search = models.SearchRequest(query="A walnut gramophone", k=1)
    assert [item.item_id for item in call("lists.search", client=client, body=search).items] == ["new/1"]
    assert call("changes.delete_item", client=client, item_id="new/1").changed == 1


def test_a_scenario_that_was_read_can_be_put_again(client: Any, models: Any) -> None:
    """What the API answers and what it takes are of one type."""
    scenario = models.Scenario.from_dict({"diversity": 0.2, "pins": [{"position": 1, "item": "i1"}]})
    assert call("scenarios.put_scenario", client=client, name="home", body=scenario).version == 1
    kept = call("scenarios.get_scenario", client=client, name="home").definition
    assert call("scenarios.put_scenario", client=client, name="home", body=kept).version == 2


def test_errors_are_read_as_problems(client: Any, models: Any) -> None:
    """With what is wrong and where."""
    refused = call("lists.recommend", client=client, body=models.RecommendRequest(k=0))
    assert isinstance(refused, models.Problem) and (refused.status, refused.type_) == (422, "about:blank")
    assert refused.errors[0].loc == ["body", "k"] and refused.errors[0].msg in refused.detail
    unknown = call("lists.similar", client=client, item_id="nothing")
    assert isinstance(unknown, models.Problem) and unknown.title == "Not Found" and unknown.instance


def test_the_program_of_the_documentation_runs(folder: Path, tiny: Path, tmp_path: Path) -> None:
    """With a key."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    key = create_key(store, "shop", ("read",))
    (program,) = GUIDE.blocks("py")
    with listening(create_app(holder_of(tiny, store), store)) as url:
        program = program.replace("http://localhost:8000", url).replace("rk_…", key)
        printed = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
    assert len(ast.literal_eval(printed)) == 5
