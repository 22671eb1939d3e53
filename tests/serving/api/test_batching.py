"""Lists that are made together are those that are made alone, and what fails fails alone."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from features.histories import Histories
from serving.api.app import create_app
from serving.api.batching import MicroBatcher
from serving.api.metrics import Metrics
from serving.api.schemas import RankRequest, RecommendRequest, RecommendResponse
from serving.api.service import Service
from serving.filters import FilterError
from serving.recommender import Ranking, Recommender
from serving.store.impressions import ImpressionLog
from serving.store.store import Store, StoredEvent
from tests.worlds import client_of, holder_of

NOW = 1_702_000_000_000_000

LISTS: list[dict[str, Any]] = [
    {"user_id": "u3", "k": 7},
    {"user_id": "u4", "k": 7},
    {"user_id": "clicker", "k": 7},
    {"k": 7},
    {"history": ["i1", "gone", "i2"], "k": 7},
    {"user_id": "u5", "k": 9},
    {"user_id": "u6", "k": 7, "exclude_seen": True},
    {"user_id": "u7", "k": 7, "exclude_seen": True},
    {"user_id": "u6", "k": 7, "diversity": 0.5},
    {"user_id": "u7", "k": 7, "diversity": 0.5},
    {"user_id": "u6", "k": 7, "value": {"click": 1, "purchase": 0}},
    {"user_id": "u7", "k": 7, "value": {"click": 0, "purchase": 1}},
    {"user_id": "u6", "k": 7, "explain": True},
    {"user_id": "u1", "k": 7, "explain": True},
    {"user_id": "u6", "k": 7, "filters": {"brand": "brand 1"}},
    {"user_id": "u1", "k": 7, "filters": {"brand": "brand 1"}},
    {"user_id": "u1", "k": 7, "filters": {"brand": "brand 2"}},
    {"user_id": "u1", "k": 7, "query": "a red lamp"},
    {"query": "a red lamp", "k": 7},
    {"query": "steel chair", "k": 7},
]
RANKED: list[dict[str, Any]] = [
    {"user_id": "u3", "candidates": ["i1", "i2", "i3"]},
    {"user_id": "u4", "candidates": ["i5", "nope", "i9"]},
    {"history": ["i7"], "candidates": ["i5"]},
    {"user_id": "u4", "candidates": ["nope"]},
    {"candidates": ["nope", "neither"]},
    {"user_id": "u5", "candidates": [f"i{row}" for row in range(30)]},
    {"user_id": "u5", "candidates": ["i4", "i2"], "context": {"time": "2023-12-24T12:00:00"}},
    {"user_id": "u5", "candidates": ["i4", "i2", "i1"], "explain": True},
    {"user_id": "u6", "candidates": ["i4", "i2"], "explain": True},
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return a store that knows of one user's clicks."""
    opened = Store(f"sqlite:///{tmp_path}/store.db")
    opened.add_events([StoredEvent(f"e{row}", "clicker", f"i{row}", "click", NOW - 9 + row) for row in range(4)])
    yield opened
    opened.close()


@pytest.fixture
def service(tiny: Path, store: Store) -> Iterator[Service]:
    """Return a service with a stopped clock."""
    impressions = ImpressionLog(store, lambda: None)
    yield Service(holder_of(tiny, store), store, Metrics(lambda: "tiny"), impressions, lambda: NOW)
    impressions.close()


def assert_same(together: RecommendResponse | Exception, alone: RecommendResponse | Exception) -> None:
    """Compare two answers but for their request ids; numbers may differ in the last digits of a float."""
    assert isinstance(together, RecommendResponse) and isinstance(alone, RecommendResponse)
    assert [item.item_id for item in together.items] == [item.item_id for item in alone.items]
    assert (together.user_id, together.unknown_items) == (alone.user_id, alone.unknown_items)
    for one, other in zip(together.items, alone.items, strict=True):
        numbers = {"score", "interest", "p_click", "p_purchase"}
        first, second = ({name: getattr(item, name) for name in numbers} for item in (one, other))
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
        if one.reasons or other.reasons:
            assert one.reasons and other.reasons
            for name in ("nearest", "features"):
                pairs = zip(getattr(one.reasons, name), getattr(other.reasons, name), strict=True)
                for mine, its in pairs:
                    assert next(iter(mine.model_dump().values())) == next(iter(its.model_dump().values()))


def test_lists_made_together_are_those_made_alone(service: Service) -> None:
    """Whatever k, filters, rules, sentences and reasons the others of the batch have."""
    requests = [RecommendRequest.model_validate(body) for body in LISTS]
    for together, body in zip(service.recommend_all(requests), requests, strict=True):
        assert_same(together, service.recommend(body))


def test_rankings_made_together_are_those_made_alone(service: Service) -> None:
    """However many candidates the others of the batch have, known ones or not."""
    requests = [RankRequest.model_validate(body) for body in RANKED]
    for together, body in zip(service.rank_all(requests), requests, strict=True):
        assert_same(together, service.rank_all([body])[0])


def test_a_request_that_fails_leaves_the_others_of_its_batch_alone(service: Service) -> None:
    """A filter on a column that the items lack is the error of one."""
    bodies: list[dict[str, Any]] = [{"k": 3}, {"k": 3, "filters": {"attributes": {"nothing": 1}}}, {"k": 3}]
    first, second, third = service.recommend_all([RecommendRequest.model_validate(body) for body in bodies])
    assert isinstance(second, FilterError)
    assert_same(first, third)


def test_requests_with_one_batch_key_are_one_call_of_the_model(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences do not keep them apart."""
    sizes: list[int] = []
    plain = Recommender.recommend

    def counting(recommender: Recommender, histories: Histories, *rest: Any) -> Ranking:
        sizes.append(len(histories))
        return plain(recommender, histories, *rest)

    monkeypatch.setattr(Recommender, "recommend", counting)
    queries = (None, "red lamp", None, "garden chair")
    requests = [RecommendRequest(user_id=f"u{n}", k=k, query=query) for k in (3, 5) for n, query in enumerate(queries)]
    service.recommend_all(requests)
    assert sizes == [4, 4]


def answers_of(answer: Callable[[list[int]], list[Any]], most: int, at_once: int, count: int) -> list[Any]:
    """Ask for 0 … count - 1 at once and return the answers or errors."""
    with ThreadPoolExecutor(4) as pool:

        async def work(task: Callable[[], Any]) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, task)

        async def ask() -> list[Any]:
            batcher = MicroBatcher(work, answer, size=most, at_once=at_once)
            return await asyncio.gather(*(batcher(number) for number in range(count)), return_exceptions=True)

        return asyncio.run(ask())


def test_what_comes_while_others_are_worked_on_is_the_next_batch() -> None:
    """The first goes at once and alone; each gets its own answer."""
    batches: list[list[int]] = []

    def double(numbers: list[int]) -> list[int]:
        batches.append(numbers)
        return [2 * number for number in numbers]

    assert answers_of(double, most=4, at_once=1, count=10) == [2 * number for number in range(10)]
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_no_more_batches_than_allowed_are_worked_on_at_once() -> None:
    """And as many as allowed are."""
    both = threading.Barrier(2)
    running, most_running = 0, 0

    def wait(numbers: list[int]) -> list[int]:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        both.wait(timeout=10)
        running -= 1
        both.wait(timeout=10)
        return numbers

    assert answers_of(wait, most=1, at_once=2, count=6) == list(range(6))
    assert most_running == 2


def test_an_error_reaches_its_request_and_a_crash_those_of_its_batch() -> None:
    """The batches after it are answered."""

    def fail(numbers: list[int]) -> list[Any]:
        if numbers == [0]:
            raise ZeroDivisionError
        return [KeyError(number) if number == 2 else number for number in numbers]

    crashed, fine, wrong, last = answers_of(fail, most=2, at_once=1, count=4)
    assert isinstance(crashed, ZeroDivisionError) and isinstance(wrong, KeyError)
    assert (fine, last) == (1, 3)


def test_the_api_with_batches_answers_each_client_its_own_list(tiny: Path, store: Store) -> None:
    """Many at once get what one after another gets."""
    app = create_app(holder_of(tiny, store), store, clock=lambda: NOW, batch=8)
    bodies = [body for body in LISTS if "query" not in body] * 3

    def ask(client: TestClient, body: dict[str, Any]) -> tuple[Any, list[str]]:
        answer = client.post("/v1/recommend", json=body).json()
        return answer["user_id"], [item["item_id"] for item in answer["items"]]

    with client_of(app) as client, ThreadPoolExecutor(12) as clients:
        alone = [ask(client, body) for body in bodies]
        assert list(clients.map(lambda body: ask(client, body), bodies)) == alone
