"""Lists that are late: what has not begun is left out, said so, and nobody waits for a worker for ever."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.batching import MicroBatcher
from serving.api.refusals import BusyError
from serving.api.schemas import RecommendRequest
from serving.deadline import Deadline
from serving.recommender import Recommender
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES
from serving.store.store import Store
from tests.serving.api.conftest import NOW
from tests.worlds import client_of, holder_of

QUICK = {name for name, source in SOURCES.items() if source.at_hand}


def slowed(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, seconds: float) -> None:
    """Have a method take `seconds` longer."""
    plain: Callable[..., Any] = getattr(owner, name)

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def post(client: TestClient, path: str = "/v1/recommend", **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def numbers(answer: Any) -> list[tuple[str, float]]:
    """Return the items of an answer with their scores."""
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def test_a_list_in_time_lacks_nothing(client: TestClient) -> None:
    body: dict[str, Any] = {"user_id": "u3", "k": 40, "explain": True}
    plain, timed = post(client, **body), post(client, **body, timeout_ms=60_000)
    assert plain["degraded"] == timed["degraded"] == []
    assert numbers(plain) == numbers(timed) and all(item["reasons"] for item in timed["items"])


def test_what_has_not_begun_by_the_deadline_is_left_out_and_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's interest sorts what is at hand, and the metrics count it."""
    slowed(monkeypatch, Retriever, "_requests", 0.05)
    answer = post(client, user_id="u3", k=40, explain=True, timeout_ms=20)
    assert answer["degraded"] == [*(name for name in SOURCES if name not in QUICK), "ranker", "reasons"]
    interests = [item["interest"] for item in answer["items"]]
    assert len(interests) == 40 and interests == sorted(interests, reverse=True)
    assert {(item["p_click"], item["p_purchase"], item["reasons"]) for item in answer["items"]} == {(None,) * 3}
    assert 'recsys_degraded_total{step="ranker"} 1.0' in client.get("/metrics").text
    nobody = post(client, k=5, timeout_ms=20)
    assert len(nobody["items"]) == 5 and nobody["items"][0]["score"] == 1


def test_only_what_comes_after_the_deadline_is_left_out(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons first, since they are made last."""
    slowed(monkeypatch, Retriever, "describe", 1)
    answer = post(client, user_id="u3", k=40, explain=True, timeout_ms=900)
    assert answer["degraded"] == ["reasons"]
    assert all(item["p_click"] is not None and item["reasons"] is None for item in answer["items"])


def test_rankings_and_rows_have_a_deadline_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, Retriever, "_requests", 0.05)
    ranked = post(client, "/v1/rank", user_id="u3", candidates=["i1", "i2", "i3"], timeout_ms=20)
    assert "ranker" in ranked["degraded"] and len(ranked["items"]) == 3
    rows = post(client, "/v1/rows", user_id="u3", timeout_ms=20)
    assert "ranker" in rows["degraded"] and rows["rows"]


def test_the_haste_of_one_costs_others_of_its_batch_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(monkeypatch, Retriever, "_requests", 0.05)
    service = client.app.state.workers.service  # type: ignore[attr-defined]
    bodies = [RecommendRequest(user_id="u3", timeout_ms=1), RecommendRequest(user_id="u3")]
    hasty, patient = service.recommend_all(bodies)
    assert hasty.degraded and not patient.degraded


@pytest.fixture
def hasty(tiny: Path, store: Store) -> Iterator[TestClient]:
    """Return a client of a server with a deadline of its own."""
    with client_of(
        create_app(holder_of(tiny, store), store, clock=lambda: NOW, limits=Limits(timeout_ms=20))
    ) as opened:
        yield opened


def test_a_server_has_a_deadline_that_requests_may_move(hasty: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, Recommender, "_recommend_block", 0.05)
    assert "ranker" in post(hasty, user_id="u3")["degraded"]
    assert post(hasty, user_id="u3", timeout_ms=60_000)["degraded"] == []


def test_a_request_for_which_no_worker_is_free_in_time_is_refused(
    hasty: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 503 and when to come again; those that are being worked on are answered."""
    slowed(monkeypatch, Recommender, "_recommend_block", 0.3)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda k: hasty.post("/v1/recommend", json={"k": k}), range(1, 13)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503} and codes.count(200) >= 2
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert "no worker was free in time" in refused.json()["detail"] and refused.headers["retry-after"] == "1"


def test_a_micro_batch_leaves_out_who_gave_up_waiting() -> None:
    """The others are answered, and nothing is left behind."""
    gate, batches = threading.Event(), []

    def answer(requests: list[int]) -> list[int | Exception]:
        batches.append(requests)
        gate.wait(5)
        return list(requests)

    async def ask() -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            batcher: MicroBatcher[int, int] = MicroBatcher(
                lambda call: loop.run_in_executor(pool, call), answer, size=4, at_once=1
            )
            first, patient = asyncio.ensure_future(batcher(0)), asyncio.ensure_future(batcher(2))
            late = asyncio.ensure_future(batcher(1, time.monotonic() + 0.05))
            await asyncio.wait([late])
            gate.set()
            return [await first, late.exception(), await patient]

    zero, error, two = asyncio.run(ask())
    assert (zero, two, batches) == (0, 2, [[0], [2]]) and isinstance(error, BusyError)


def test_a_deadline_names_each_step_once() -> None:
    late, never = Deadline(time.monotonic() - 1), Deadline()
    assert [late.leaves_out(step) for step in ("a", "b", "a")] == [True] * 3 and late.left_out == ["a", "b"]
    assert not never.leaves_out("a") and never.left_out == [] and never.at == math.inf


def test_requests_that_say_the_same_are_equal_whenever_they_arrive() -> None:
    first = RecommendRequest(user_id="u3", timeout_ms=50)
    time.sleep(0.002)
    second = RecommendRequest(user_id="u3", timeout_ms=50)
    assert first == second and first.deadline(None) < second.deadline(None)
