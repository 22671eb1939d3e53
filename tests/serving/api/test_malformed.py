"""Ten thousand malformed bodies: each is refused with a reason."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.store.store import Store
from tests.worlds import client_of, holder_of

BODIES = 10_000
ROUTES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/recommend"): {"user_id": "u1", "k": 5, "filters": {"price": {"max": 5}}, "diversity": 0.5},
    ("POST", "/v1/rank"): {"history": ["i1"], "candidates": ["i1", "i2"], "context": {"time": 1_700_000_000_000_000}},
    ("POST", "/v1/search"): {"query": "red lamp", "k": 5},
    ("POST", "/v1/events"): {
        "events": [{"user_id": "u1", "item_id": "i1", "timestamp": 1_700_000_000_000_000, "value": 1.5}]
    },
    ("PUT", "/v1/items"): {"items": [{"item_id": "new", "title": "red lamp", "price": 2, "tags": ["a"]}]},
}
JSON = "application/json"
WRONG: tuple[Any, ...] = (
    None,
    [],
    {},
    "\x00",
    [[]],
    {"a": {}},
    1e999,
    float("nan"),
    -1,
    10**40,
    0.5,
    [None],
    {"": ""},
    "x" * 30_000,
)
"""No field of any body takes all of these; `_wrong_value` picks one that its field does not take."""


def _truncated(draw: random.Random, body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    return text[: draw.randrange(1, len(text))]


def _wrong_value(draw: random.Random, body: dict[str, Any]) -> bytes:
    required = {"events": [], "items": [], "candidates": [], "query": ""}
    name = draw.choice(sorted(body))
    wrong = draw.choice(
        [one for one in WRONG if one is not None and not (one == {} and name in ("filters", "context"))]
    )
    if name == "user_id" and wrong == "x" * 30_000:
        wrong = 5
    if name == "history" and wrong == []:
        wrong = [5]
    if name == "diversity" and wrong == 0.5:
        wrong = 1.5
    return json.dumps(body | {name: draw.choice([wrong, required.get(name, wrong)])}).encode()


def _unknown_name(draw: random.Random, body: dict[str, Any]) -> bytes:
    return json.dumps(body | {draw.choice(["K", "user", "\u00e9", "", "__proto__"]): draw.choice([1, None])}).encode()


def _twice(draw: random.Random, body: dict[str, Any]) -> bytes:
    name = draw.choice(sorted(body))
    return json.dumps(body)[:-1].encode() + f', "{name}": {json.dumps(body[name])}}}'.encode()


def _no_number(draw: random.Random, body: dict[str, Any]) -> bytes:
    number = draw.choice(["NaN", "Infinity", "-Infinity", "1e999", "9" * draw.randrange(400, 6000), "01", "+1", "0x1"])
    return json.dumps(body)[:-1].encode() + f', "k": {number}}}'.encode()


def _deep(draw: random.Random, body: dict[str, Any]) -> bytes:
    opened = draw.choice(["[", '{"a":', '{"filters":', '[{"history":'])
    depth = draw.choice([50, 900, 5000, 100_000]) // (1 + len(opened) // 5)
    closed = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(opened) if sign in "[{")
    return (opened * depth + "1" + closed * depth * draw.randrange(2)).encode()


def _no_text(draw: random.Random, body: dict[str, Any]) -> bytes:
    wrong = draw.choice(
        [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\\ud800", b"\\udfff", b"\\u0000", b"\xf8\x88\x80\x80\x80"]
    )
    return json.dumps(body)[:-1].encode() + b', "user_id": "' + wrong + b'"}'


def _other_encoding(draw: random.Random, body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode(draw.choice(["utf-16", "utf-32", "utf-16-be", "utf-7"])) + b"\xff"


def _noise(draw: random.Random, body: dict[str, Any]) -> bytes:
    return draw.randbytes(draw.randrange(1, 200))


def _no_object(draw: random.Random, body: dict[str, Any]) -> bytes:
    return draw.choice([b"", b"null", b"[]", b"1", b'"text"', b"true", b" ", b"\xef\xbb\xbf", b"{} {}", b"[{}]"])


KINDS: list[Callable[[random.Random, dict[str, Any]], bytes]] = [
    _truncated,
    _wrong_value,
    _unknown_name,
    _twice,
    _no_number,
    _deep,
    _no_text,
    _other_encoding,
    _noise,
    _no_object,
]


def malformed(seed: int) -> Iterator[tuple[str, str, bytes, str]]:
    """Yield method, path, body and content type."""
    draw = random.Random(seed)
    for number in range(BODIES):
        (method, path), body = draw.choice(list(ROUTES.items()))
        if number % 11 == 10:
            kind = draw.choice(["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", "", ";;;"])
            yield method, path, json.dumps(body).encode(), kind
        else:
            yield method, path, KINDS[number % 11](draw, body), JSON


@pytest.mark.slow
def test_every_malformed_body_is_refused(tiny: Path, tmp_path: Path) -> None:
    """With 422 and a reason; nothing of them is stored."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    app = create_app(holder_of(tiny, store), store, limits=Limits(per_second=1_000_000))
    accepted = asyncio.run(_not_refused(httpx.ASGITransport(app, raise_app_exceptions=False)))
    assert not accepted, f"{len(accepted)} of {BODIES}: {accepted[:5]}"
    assert not list(store.every_event()) and not store.item_changes()


async def _not_refused(transport: httpx.ASGITransport) -> list[tuple[Any, ...]]:
    """Send all bodies, and return those that were not refused with a reason."""
    accepted: list[tuple[Any, ...]] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path, body, kind in malformed(seed=0):
            answer = await client.request(method, path, content=body, headers={"content-type": kind})
            if not (answer.status_code == 422 and explained(answer.json())):
                accepted.append((method, path, body[:80], kind, answer.status_code, answer.text[:200]))
    return accepted


def explained(problem: dict[str, Any]) -> bool:
    """Return whether an answer gives a reason."""
    return bool(problem["detail"]) and all(part["loc"] and part["msg"] for part in problem.get("errors", []))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"user_id": "\xff"}', "not UTF-8"),
        (b'{"k": NaN}', "NaN is no number"),
        (b'{"k": ' + b"1" * 5000 + b"}", "limit (4300 digits)"),
        (b'{"user_id": "a", "user_id": "b"}', "'user_id' stands twice"),
        (b'{"k": 5', "Expecting ',' delimiter"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_reason(client: TestClient, body: bytes, reason: str) -> None:
    """With 422, like every other invalid body."""
    answer = client.post("/v1/recommend", content=body, headers={"content-type": JSON})
    assert answer.status_code == 422 and reason in answer.json()["errors"][0]["msg"]


def test_another_content_type_is_refused_with_the_right_one(client: TestClient) -> None:
    """A common mistake in a first request."""
    answer = client.post("/v1/recommend", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 422 and JSON in answer.json()["errors"][0]["msg"]


def test_a_body_with_thousands_of_problems_gets_a_short_answer(client: TestClient) -> None:
    """Otherwise a body of one megabyte would be answered with many."""
    answer = client.post("/v1/recommend", json={str(number): 1 for number in range(50_000)})
    assert answer.status_code == 422 and len(answer.content) < 5000


@pytest.mark.parametrize(("length", "status"), [("9" * 5000, 413), ("\u00b2", 200), ("-1", 200)])
def test_an_absurd_content_length_is_no_server_error(client: TestClient, length: str, status: int) -> None:
    """A huge one is too long; one that is no number is ignored, and the body that arrives is what counts."""
    headers = {b"content-type": JSON.encode(), b"content-length": length.encode("latin-1")}
    assert client.post("/v1/recommend", content=b"{}", headers=headers).status_code == status


@pytest.fixture(scope="module")
def client(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Return a client of an application with an empty store."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('malformed')}/store.db")
    return client_of(create_app(holder_of(tiny, store), store), raise_server_exceptions=False)
