"""Keys, scopes, hosts and limits: each refuses what it should, before the body is read, and nothing else."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from serving.api.access.keys import create_key, revoke_key
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.api.observe import JsonLines
from serving.store.store import Store
from tests.serving.api.conftest import problem_of
from tests.worlds import client_of, holder_of

EVENT = {"events": [{"user_id": "u", "item_id": "i1"}]}

SCOPES = {
    "GET /v1/scenarios": "admin",
    "GET /v1/scenarios/{name}": "admin",
    "PUT /v1/scenarios/{name}": "admin",
    "POST /v1/scenarios/{name}/switch": "admin",
    "DELETE /v1/scenarios/{name}": "admin",
    "POST /v1/scenarios/{name}/preview": "admin",
    "POST /v1/recommend": "read",
    "POST /v1/rank": "read",
    "POST /v1/search": "read",
    "GET /v1/trending": "read",
    "GET /v1/items/{item_id}/similar": "read",
    "POST /v1/events": "write",
    "PUT /v1/items": "write",
    "DELETE /v1/items/{item_id}": "write",
    "PUT /v1/users/{user_id}": "write",
    "DELETE /v1/users/{user_id}": "write",
    "GET /v1/model": "read",
    "POST /v1/model/reload": "admin",
    "POST /v1/rows": "read",
    "GET /v1/items/{item_id}/together": "read",
    "POST /v1/items/{item_id}/audience": "admin",
    "POST /v1/answers": "read",
    "GET /metrics": "read",
}
"""The scope that each route needs, as the documentation says."""
DOCUMENTATION = ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")
OPEN = ("/healthz", "/readyz")


@pytest.fixture(scope="module")
def holder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelHolder:
    """Return a holder of the small bundle, with a store of its own."""
    return holder_of(tiny, Store(f"sqlite:///{tmp_path_factory.mktemp('holder')}/store.db"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    yield store
    store.close()


def bearer(key: str) -> dict[bytes, bytes]:
    """Return the header that sends a key."""
    return {b"Authorization": f"Bearer {key}".encode()}


def send_raw(app: FastAPI, route: str, headers: dict[bytes, bytes] | None = None) -> int:
    """Send a request whose body must not be read, and return the status of the answer."""
    method, path = route.split()
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    lower = [(name.lower(), value) for name, value in ({b"host": b"localhost"} | (headers or {})).items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": lower, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    asyncio.run(app(scope | {"asgi": {"version": "3.0"}, "http_version": "1.1"}, receive, send))
    return int(sent[0]["status"])


def test_without_keys_only_this_machine_is_served(holder: ModelHolder, store: Store) -> None:
    """A server that other machines can reach needs a key even if none was created yet."""
    assert client_of(create_app(holder, store)).get("/v1/model").status_code == 200
    reachable = client_of(create_app(holder, store, local=False))
    assert reachable.get("/v1/model").status_code == 401
    assert reachable.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@localhost", 403),
        ("evil_example", 403),
        ("", 403),
    ],
)
def test_without_keys_the_host_header_must_name_this_machine(
    holder: ModelHolder, store: Store, host: str, status: int
) -> None:
    """Or the web page of another site could read the answers by DNS rebinding."""
    answer = client_of(create_app(holder, store)).get("/v1/model", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or "recsys keys add" in answer.json()["detail"]


def test_with_keys_any_host_header_is_accepted(holder: ModelHolder, store: Store) -> None:
    """A key cannot be sent by the page of another site."""
    key = create_key(store, "shop", ("read",))
    client = client_of(create_app(holder, store), headers={"host": "shop.example"})
    assert client.get("/v1/model", headers=bearer(key)).status_code == 200
    assert client.get("/v1/model").status_code == 401


@pytest.mark.parametrize("route", SCOPES)
def test_a_route_needs_its_scope_and_no_other(holder: ModelHolder, store: Store, route: str) -> None:
    """Keys with the scope or `admin` pass; others get 403, which names the scope; without a key it is 401."""
    app = create_app(holder, store)
    keys = {scope: create_key(store, scope, (scope,)) for scope in ("read", "write", "admin")}
    method, path = route.format(item_id="none", user_id="none", name="none").split()
    client = client_of(app)
    assert client.request(method, path).status_code == 401
    for scope, key in keys.items():
        answer = client.request(method, path, headers=bearer(key))
        if scope in (SCOPES[route], "admin"):
            assert answer.status_code in (200, 404, 422)  # without a body, most requests are incomplete
        else:
            assert answer.status_code == 403 and answer.json()["detail"].endswith(f"this needs {SCOPES[route]}")


def test_every_route_is_listed_with_its_scope(holder: ModelHolder, store: Store) -> None:
    """A new route belongs into `SCOPES`, so that its scope is tested."""
    paths = create_app(holder, store).openapi()["paths"]
    routes = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}
    assert routes == {*SCOPES, *(f"GET {path}" for path in OPEN)}


def test_a_key_may_use_what_its_scopes_allow(holder: ModelHolder, store: Store) -> None:
    """Complete requests are answered; several scopes add up; a key without any opens nothing."""
    app = create_app(holder, store)
    reader, writer = create_key(store, "reader", ("read",)), create_key(store, "writer", ("write",))
    both, none = create_key(store, "both", ("read", "write")), create_key(store, "none", ())
    client = client_of(app)
    assert client.post("/v1/recommend", json={}, headers=bearer(reader)).status_code == 200
    assert client.post("/v1/events", json=EVENT, headers=bearer(writer)).status_code == 200
    assert client.post("/v1/recommend", json={}, headers=bearer(both)).status_code == 200
    assert client.post("/v1/events", json=EVENT, headers=bearer(both)).status_code == 200
    assert client.post("/v1/recommend", json={}, headers=bearer(none)).status_code == 403
    assert client.post("/v1/events", json=EVENT, headers=bearer(none)).status_code == 403


@pytest.mark.parametrize("path", DOCUMENTATION)
def test_the_documentation_needs_the_scope_read(holder: ModelHolder, store: Store, path: str) -> None:
    """As long as there are keys."""
    app = create_app(holder, store)
    assert client_of(app).get(path).status_code == 200
    reader, writer = create_key(store, "reader", ("read",)), create_key(store, "writer", ("write",))
    client = client_of(create_app(holder, store))
    assert client.get(path).status_code == 401
    assert client.get(path, headers=bearer(writer)).status_code == 403
    assert client.get(path, headers=bearer(reader)).status_code == 200


def test_an_unknown_path_needs_a_key(holder: ModelHolder, store: Store) -> None:
    """Without one, nobody learns which paths exist."""
    key = create_key(store, "reader", ("read",))
    client = client_of(create_app(holder, store))
    assert client.get("/nothing").status_code == 401
    assert client.get("/nothing", headers=bearer(key)).status_code == 404


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_key_and_have_no_limits(holder: ModelHolder, store: Store, path: str) -> None:
    """Whatever else is refused."""
    create_key(store, "shop", ("read",))
    client = client_of(create_app(holder, store, limits=Limits(per_second=0, waiting=0)), headers={"host": "any"})
    assert client.get(path).json()["status"] == "ok"


def test_only_the_whole_key_with_the_bearer_scheme_is_accepted(holder: ModelHolder, store: Store) -> None:
    """The scheme is compared without regard to case, as HTTP says."""
    key = create_key(store, "shop", ("read",))
    client = client_of(create_app(holder, store))
    for sent in (f"Bearer {key}", f"bearer {key}"):
        assert client.get("/v1/model", headers={"Authorization": sent}).status_code == 200
    for wrong in ("", "rk_", key[:-1], key + "x", "\u00e9"):
        answer = client.get("/v1/model", headers=bearer(wrong))
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    for sent in (key, f"Basic {key}"):
        assert client.get("/v1/model", headers={"Authorization": sent}).status_code == 401


def test_revoking_the_only_key_does_not_open_the_api(
    holder: ModelHolder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revoked key is refused, and a key is still needed."""
    monkeypatch.setattr("serving.api.access.keys.CACHED_S", 0.0)
    key = create_key(store, "shop", ("read",))
    client = client_of(create_app(holder, store))
    assert client.get("/v1/model", headers=bearer(key)).status_code == 200
    revoke_key(store, store.every_key()[0].key_id)
    assert client.get("/v1/model", headers=bearer(key)).status_code == 401
    assert client.get("/v1/model").status_code == 401


def test_secrets_are_in_neither_log_nor_store(
    holder: ModelHolder, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the id of the key, the store its digest."""
    caplog.set_level(logging.INFO, "recsys")
    key = create_key(store, "shop", ("read",))
    client_of(create_app(holder, store)).get("/v1/model", headers=bearer(key))
    _, key_id, secret = key.split("_", 2)
    assert json.loads(caplog.records[-1].message)["key"] == key_id
    assert secret not in caplog.text
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert store.every_key()[0].digest.encode() in stored and secret.encode() not in stored


def test_keys_that_cannot_be_read_are_503(holder: ModelHolder, store: Store) -> None:
    """While it is not known whether there are keys, nobody is served; afterwards the API answers again."""
    client = client_of(create_app(holder, store))
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE keys RENAME TO moved")
    answer = client.get("/v1/model")
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    assert problem_of(answer)["detail"] == "the store does not answer"
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE moved RENAME TO keys")
    assert client.get("/v1/model").status_code == 200


def test_a_request_is_refused_before_its_body_is_read(holder: ModelHolder, store: Store) -> None:
    """For its host, its rate, the requests in progress, its announced length, its key, its scope or its path."""
    events, announced = "POST /v1/events", {b"content-length": b"50"}

    def status(limits: Limits | None = None, headers: dict[bytes, bytes] = announced, route: str = events) -> int:
        return send_raw(create_app(holder, store, limits=limits or Limits()), route, headers)

    assert status(headers={b"host": b"evil.example"}) == 403
    assert status(Limits(per_second=0)) == 429
    assert status(Limits(waiting=0)) == 503
    assert status(Limits(body_bytes=10)) == 413
    key = create_key(store, "reader", ("read",))
    assert status() == 401
    assert status(headers=bearer(key)) == 403
    assert status(headers=bearer(key), route="POST /nothing") == 404


def test_a_body_is_refused_once_it_is_too_long(holder: ModelHolder, store: Store) -> None:
    """Whether its length is announced or not; one of exactly the longest length is read."""
    client = client_of(create_app(holder, store, limits=Limits(body_bytes=100_000)))
    padded = b"{}" + b" " * 99_998
    headers = {"content-type": "application/json"}
    assert client.post("/v1/recommend", content=padded, headers=headers).status_code == 200
    for body in (padded + b" ", iter([padded, b" "])):
        answer = client.post("/v1/recommend", content=body, headers=headers)
        assert answer.status_code == 413 and answer.headers["Connection"] == "close"


def test_each_key_has_a_rate_of_its_own(holder: ModelHolder, store: Store) -> None:
    """Above it, requests are answered with 429 and Retry-After."""
    keys = [create_key(store, name, ("read",)) for name in ("eager", "modest")]
    client = client_of(create_app(holder, store, limits=Limits(per_second=5)))
    answers = [client.get("/v1/model", headers=bearer(keys[0])) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and refused[0].headers["Retry-After"] == "1"
    assert {answer.status_code for answer in answers} == {200, 429}
    assert client.get("/v1/model", headers=bearer(keys[1])).status_code == 200


def test_requests_in_progress_are_limited_until_one_ends(holder: ModelHolder, store: Store) -> None:
    """A request whose body is still arriving counts; one that was refused no longer does."""
    app = create_app(holder, store, limits=Limits(waiting=1, body_s=0.5))
    transport = httpx.ASGITransport(app)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            slow = asyncio.create_task(client.post("/v1/recommend", content=endless()))
            await asyncio.sleep(0.1)
            meanwhile = await client.get("/v1/model")
            ended = await slow
            return [meanwhile.status_code, ended.status_code, (await client.get("/v1/model")).status_code]

    assert asyncio.run(statuses()) == [503, 408, 200]


def test_every_answer_names_its_request_id(holder: ModelHolder, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The one that was sent if it is plain, else a new one; the line of the log has the same."""
    caplog.set_level(logging.INFO, "recsys")
    client: TestClient = client_of(create_app(holder, store))
    for path, status, route in (("/v1/model", 200, "/v1/model"), ("/nothing", 404, "none")):
        answer = client.get(path, headers={"X-Request-ID": "mine-1"})
        line = json.loads(caplog.records[-1].message)
        assert answer.headers["X-Request-ID"] == line["request_id"] == "mine-1"
        assert (line["method"], line["route"], line["status"]) == ("GET", route, status)
    refused = client.get("/v1/model", headers={"X-Request-ID": "not plain", "host": "evil.example"})
    line = json.loads(caplog.records[-1].message)
    assert refused.headers["X-Request-ID"] == line["request_id"] != "not plain"
    assert line["status"] == 403


def test_an_unexpected_error_is_500_with_the_request_id_and_the_traceback_in_the_log(
    holder: ModelHolder, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says nothing about the cause."""
    caplog.set_level(logging.INFO, "recsys")
    monkeypatch.setattr("serving.api.service.Service.about_model", lambda self: 1 / 0)
    client = client_of(create_app(holder, store), raise_server_exceptions=False)
    answer = client.get("/v1/model")
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["X-Request-ID"] in problem_of(answer)["detail"]
    line = json.loads(caplog.records[-1].message)
    assert "ZeroDivisionError" in line["error"] and line["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:9999"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"X-Forwarded-For": "203.0.113.5"},
     {"Forwarded": "for=203.0.113.5"}, {"Via": "1.1 proxy"}],
    ids=str,
)  # fmt: skip
def test_without_keys_neither_a_foreign_page_nor_a_proxy_changes_anything(
    holder: ModelHolder, store: Store, headers: dict[str, str]
) -> None:
    """Also where the host is this machine; with a key they may."""
    client = client_of(create_app(holder, store))
    assert client.post("/v1/events", json=EVENT, headers=headers).status_code == 403
    assert client.post("/v1/model/reload", headers=headers).status_code == 403
    assert list(store.every_event()) == []
    key = {"Authorization": f"Bearer {create_key(store, 'shop', ('write',))}"}
    assert client_of(create_app(holder, store)).post("/v1/events", json=EVENT, headers=headers | key).status_code == 200


def test_the_documentation_fetches_nothing_from_elsewhere(holder: ModelHolder, store: Store) -> None:
    """Neither page names another host, and what they name is here."""
    client = client_of(create_app(holder, store))
    for path in ("/docs", "/redoc"):
        page = client.get(path).text
        assets = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert any(asset.endswith(".js") for asset in assets)
        assert all(client.get(asset).status_code == 200 for asset in assets if asset.startswith("/"))
        assert not [asset for asset in assets if not asset.startswith("/")]
    create_key(store, "shop", ("read",))
    assert client_of(create_app(holder, store)).get("/static-offline-docs/swagger-ui.css").status_code == 401


SHOP = {"Origin": "https://shop.example"}


def test_no_page_of_another_site_reads_answers_unless_its_origin_is_allowed(holder: ModelHolder, store: Store) -> None:
    """Preflights are answered without a key, errors can be read too, and cookies or passwords are never asked for."""
    preflight = SHOP | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    closed = client_of(create_app(holder, store))
    assert "access-control-allow-origin" not in closed.post("/v1/recommend", json={}, headers=SHOP).headers
    assert closed.options("/v1/recommend", headers=preflight).status_code != 200
    open_to_shop = client_of(create_app(holder, store, limits=Limits(origins=("https://shop.example",))))
    assert (
        open_to_shop.post("/v1/events", json=EVENT, headers=SHOP | {"Sec-Fetch-Site": "cross-site"}).status_code == 200
    )
    key = create_key(store, "shop", ("read",))
    with_keys = client_of(create_app(holder, store, limits=Limits(origins=("https://shop.example",))))
    allowed = with_keys.options("/v1/recommend", headers=preflight)
    assert allowed.status_code == 200 and "authorization" in allowed.headers["access-control-allow-headers"].lower()
    for headers, status in ((SHOP, 401), (SHOP | {"Authorization": f"Bearer {key}"}, 200)):
        answer = with_keys.post("/v1/recommend", json={}, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, SHOP["Origin"])
        assert "access-control-allow-credentials" not in answer.headers
    foreign = with_keys.options("/v1/recommend", headers=preflight | {"Origin": "https://evil.example"})
    assert foreign.status_code == 400 and "access-control-allow-origin" not in foreign.headers


def test_a_browser_reads_the_documentation_with_a_key_as_the_password(holder: ModelHolder, store: Store) -> None:
    """There alone: a browser would send the password by itself wherever a page of another site leads it."""
    client, key = client_of(create_app(holder, store)), create_key(store, "reader", ("read",))
    writer = create_key(store, "writer", ("write",))
    for path in ("/docs", "/openapi.json"):
        refused = client.get(path)
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert client.get(path, auth=("anyone", key)).status_code == 200
        assert client.get(path, auth=("anyone", "rk_00000000_wrong")).status_code == 401
        assert client.get(path, auth=("anyone", writer)).status_code == 403
        for malformed in ("Basic", "Basic ???", "Basic /w=="):
            assert client.get(path, headers={"Authorization": malformed}).status_code == 401
    assert client.get("/v1/model", auth=("anyone", key)).headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}], ids=str)
def test_without_keys_a_program_and_the_own_documentation_may_write(
    holder: ModelHolder, store: Store, headers: dict[str, str]
) -> None:
    """`/docs` sends requests of the same origin."""
    assert client_of(create_app(holder, store)).post("/v1/events", json=EVENT, headers=headers).status_code == 200


def test_without_keys_another_machine_is_refused(holder: ModelHolder, store: Store) -> None:
    """Whatever host it names."""
    client = TestClient(create_app(holder, store), base_url="http://localhost", client=("203.0.113.5", 4000))
    assert client.get("/v1/model").status_code == 403 and client.get("/healthz").status_code == 200


def test_what_is_wrong_with_the_store_is_not_told_to_callers_without_a_key(holder: ModelHolder, tmp_path: Path) -> None:
    """The answer names no path; the log does."""
    store = Store(f"sqlite:///{tmp_path}/private/store.db")
    client = client_of(create_app(holder, store))
    (tmp_path / "private" / "store.db").unlink()
    answer = client.get("/v1/model")
    assert answer.status_code == 503 and "private" not in answer.text


def test_a_log_line_is_json_with_time_level_and_route(
    holder: ModelHolder, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a request, and one for any other message, an exception's traceback included."""
    formatter = JsonLines()
    caplog.set_level(logging.INFO, "recsys")
    client_of(create_app(holder, store)).get("/healthz")
    (line,) = [json.loads(formatter.format(record)) for record in caplog.records if record.name == "recsys.access"]
    assert line["level"] == "info" and line["route"] == "/healthz" and line["time"].endswith("+00:00")
    try:
        raise ValueError("broken\nin two")
    except ValueError as error:
        other = logging.LogRecord("recsys.live", logging.ERROR, "", 1, "%s failed", ("m/2",), (ValueError, error, None))
    line = formatter.format(other)
    assert "\n" not in line and json.loads(line)["message"] == "m/2 failed" and "broken" in json.loads(line)["error"]
