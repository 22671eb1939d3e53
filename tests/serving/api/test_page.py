"""The page at `/`: what it shows, to whom, and that looking leaves no trace."""

import base64
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi.testclient import TestClient

from serving.api.access.keys import create_key
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.page import words
from serving.api.schemas import Contribution, RankedItem, Reasons, SimilarItem
from serving.store.store import Store
from tests.browser import CHROMIUM, browser
from tests.serving.api.conftest import NOW
from tests.worlds import client_of, holder_of, listening, with_columns, with_config

FILES = ("page.css", "page.js", "icon.svg")
ATTACK = "<script>alert(1)</script>"


class Parsed(HTMLParser):
    """The elements of a page, each with its attributes, and the ids of the items that each list links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.lists: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "ol":
            self.lists.append([])
        address = dict(attrs).get("href") or ""
        if tag == "a" and address.startswith("?item="):
            self.lists[-1].append(address.removeprefix("?item="))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def look(client: TestClient, expected: int = 200, /, **query: Any) -> str:
    answer = client.get("/", params=query)
    assert answer.status_code == expected, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


def listed(html: str) -> list[str]:
    return Parsed(html).lists[-1]


def recommended(client: TestClient, **body: Any) -> list[str]:
    return [item["item_id"] for item in client.post("/v1/recommend", json=body).json()["items"]]


def basic(key: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'any:{key}'.encode()).decode()}"}


def test_the_page_lists_what_the_api_recommends(client: TestClient) -> None:
    """For a user, a sentence, both, and anyone."""
    for query, body in (
        ({"user": "u3"}, {"user_id": "u3"}),
        ({"text": "a red lamp"}, {"query": "a red lamp"}),
        ({"user": "u3", "text": "a red lamp", "k": 7}, {"user_id": "u3", "query": "a red lamp", "k": 7}),
        ({}, {}),
    ):
        assert listed(look(client, **query)) == recommended(client, **{"k": 12} | body)


def test_empty_fields_are_absent(client: TestClient) -> None:
    """As a browser sends them."""
    empty = dict.fromkeys(("user", "text", "category", "price_min", "price_max", "conditions"), "")
    assert listed(look(client, **empty)) == listed(look(client))


def test_the_history_is_shown_with_titles_types_and_times_latest_first(client: TestClient) -> None:
    """Events of the bundle, and of the store after them."""
    event = {"user_id": "u3", "item_id": "i30", "event_type": "purchase", "timestamp": NOW}
    client.post("/v1/events", json={"events": [event, event | {"item_id": "gone", "timestamp": NOW - 1}]})
    html = look(client, user="u3")
    assert Parsed(html).lists[0] == ["i30", "gone", "i25", "i18", "i13", "i10", "i9"]
    assert "bought" in html and "2023-12-08 01:46" in html
    assert "7 events" in html


def test_a_search_lists_what_the_api_finds(client: TestClient) -> None:
    """By the words and the meaning of the sentence."""
    answer = client.post("/v1/search", json={"query": "red lamp", "k": 12}).json()
    assert listed(look(client, text="red lamp", mode="search")) == [item["item_id"] for item in answer["items"]]


def test_an_item_leads_to_the_items_similar_to_it(client: TestClient) -> None:
    """An unknown one is a 404, on a page that says so."""
    answer = client.get("/v1/items/i3/similar", params={"k": 12}).json()
    assert listed(look(client, item="i3")) == [item["item_id"] for item in answer["items"]]
    assert "&#39;nope&#39; is not in the catalogue" in look(client, 404, item="nope")


def test_sliders_do_what_the_options_of_the_api_do(client: TestClient) -> None:
    """At the values of the model they change nothing."""
    own = recommended(client, user_id="u3", k=12)
    assert listed(look(client, user="u3", diversity="0.0", purchases=67)) == own
    diverse = recommended(client, user_id="u3", k=12, diversity=0.9)
    assert listed(look(client, user="u3", diversity=0.9)) == diverse != own
    clicks = recommended(client, user_id="u3", k=12, value={"click": 1, "purchase": 0})
    purchases = recommended(client, user_id="u3", k=12, value={"click": 0, "purchase": 1})
    assert listed(look(client, user="u3", purchases=0)) == clicks != purchases
    assert listed(look(client, user="u3", purchases=100)) == purchases


def test_a_kind_of_list_can_be_chosen_where_there_is_one(client: TestClient) -> None:
    """One that was switched off meanwhile is a problem in a line, not a broken page."""
    assert "Scenario" not in look(client)
    client.put("/v1/scenarios/home", json={"pins": [{"position": 1, "item": "i38"}]})
    client.post("/v1/scenarios/home/switch", json={"on": True})
    html = look(client, user="u3", scenario="home")
    assert listed(html)[0] == "i38" and listed(look(client, user="u3"))[0] != "i38"
    chosen = [option["value"] for option in Parsed(html).all("option") if "selected" in option]
    assert chosen == ["home"]
    client.post("/v1/scenarios/home/switch", json={"on": False})
    assert "&#39;home&#39; is not on" in look(client, 422, user="u3", scenario="home")


def test_filters_leave_items_out(client: TestClient) -> None:
    """Prices and conditions, as `--where` reads them; filters that no item passes are named."""
    html = look(client, price_min=10, price_max=20, conditions="brand=brand 0; brand=brand 1")
    expected = {f"i{row}" for row in range(9, 20) if row % 3 != 2}
    assert set(listed(html)) == expected
    assert "price: no item passes" in look(client, price_min=1000)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"conditions": "colour=red"}, "the items have no"),
        ({"conditions": "nonsense"}, "write NAME=VALUE"),
        ({"conditions": "price>=inf"}, "must be finite"),
        ({"k": "1000"}, "k: "),
        ({"diversity": "much"}, "diversity: "),
        ({"user": "a\nb"}, "user: "),
    ],
)
def test_a_field_that_cannot_be_is_named_on_the_page(client: TestClient, query: dict[str, str], said: str) -> None:
    """With status 422, and the other fields as they were."""
    html = look(client, 422, text="lamp", **query)
    assert said in html and 'role="alert"' in html
    assert 'value="lamp"' in html


def test_whoever_looks_leaves_no_trace(client: TestClient, store: Store) -> None:
    """No list is kept as shown to the user, and no metric but that of requests counts."""

    def counted() -> list[str]:
        lines = client.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("recsys_") and "request_seconds" not in line]

    before = counted()
    for query in ({"user": "u3"}, {"user": "nobody"}, {}, {"text": "lamp"}, {"text": "lamp", "mode": "search"}):
        look(client, **query)
    assert counted() == before
    client.post("/v1/recommend", json={"user_id": "u1"})
    client.__exit__(None, None, None)  # writes the lists that wait
    assert [kept.user_id for kept in store.every_list()] == ["u1"]


def test_nothing_is_explored_on_the_page(tiny: Path, store: Store, tmp_path: Path) -> None:
    """Since nothing is learnt from it: the list is the same each time."""
    bundle = with_config(tiny, tmp_path / "exploring", lists={"explore": 0.5})
    client = client_of(create_app(holder_of(bundle, store), store, clock=lambda: NOW))
    assert len({tuple(listed(look(client, user="u3"))) for _ in range(5)}) == 1


def test_the_page_asks_for_a_key_as_a_browser_can_send_it(tiny: Path, store: Store) -> None:
    """With the scope `read`; so do its files, and nothing else."""
    app = create_app(holder_of(tiny, store), store)
    reader, writer = create_key(store, "reader", ("read",)), create_key(store, "writer", ("write",))
    client = client_of(app)
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        refused = client.get(path)
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"].startswith("Basic")
        assert client.get(path, headers=basic(writer)).status_code == 403
        assert client.get(path, headers=basic(reader)).status_code == 200
    assert client.get("/page/view.py", headers=basic(reader)).status_code == 404
    assert client.get("/v1/model", headers=basic(reader)).status_code == 401


def test_histories_are_shown_to_admins_alone(tiny: Path, store: Store) -> None:
    """A key with `read` may be known to every visitor of a shop: it gets lists, and no user ids or events."""
    client = client_of(create_app(holder_of(tiny, store), store, clock=lambda: NOW))
    reader, admin = create_key(store, "reader", ("read",)), create_key(store, "admin", ("admin",))
    seen = {key: client.get("/?user=u3", headers=basic(key)).text for key in (reader, admin)}
    assert "What the user did" in seen[admin] and "user clicked" in seen[admin] and "?user=" in seen[admin]
    assert "What the user did" not in seen[reader] and "user clicked" not in seen[reader]
    assert "?user=" not in seen[reader]
    assert listed(seen[reader]) == listed(seen[admin])


def test_limits_hold_for_the_page(tiny: Path, store: Store) -> None:
    """It counts as a request."""
    client = client_of(create_app(holder_of(tiny, store), store, limits=Limits(per_second=1)))
    assert [client.get("/").status_code for _ in range(3)].count(429) >= 1


def test_forgotten_users_are_neither_offered_nor_shown(client: TestClient) -> None:
    """Although the bundle still has their events."""
    offered = re.search(r'\?user=(\w+)"', look(client))
    assert offered
    client.delete(f"/v1/users/{offered[1]}")
    html = look(client, user=offered[1])
    assert f"?user={offered[1]}" not in html and "Nothing is known of this user" in html


def test_what_was_typed_and_titles_are_escaped(tiny: Path, store: Store, tmp_path: Path) -> None:
    """In text, in attributes and in messages."""
    title = f'{ATTACK}"><img src=x onerror=alert(1)>'
    bundle = with_columns(tiny, tmp_path / "hostile", title=pl.lit(title), brand=pl.lit(title), category=pl.lit(title))
    client = client_of(create_app(holder_of(bundle, store), store, clock=lambda: NOW))
    client.post(
        "/v1/events", json={"events": [{"user_id": ATTACK, "item_id": "i1"}, {"user_id": "v", "item_id": ATTACK}]}
    )
    for query in ({"user": ATTACK, "text": title}, {"user": "v"}, {"item": "i3"}, {"text": title, "mode": "search"}):
        parsed = Parsed(look(client, **query))
        assert [script["src"] for script in parsed.all("script")] == ["page/page.js"]
        assert not parsed.all("img") and "&lt;script&gt;alert(1)" in look(client, **query)
    for query in ({"item": ATTACK}, {"conditions": f"{title}=1"}, {"k": title}):
        answer = client.get("/", params=query)
        assert answer.status_code in (404, 422) and ATTACK not in answer.text


def test_pictures_are_shown_where_items_have_addresses_of_them(tiny: Path, store: Store, tmp_path: Path) -> None:
    """By https alone, and their hosts are not told from where."""
    picture = pl.concat_str(pl.lit("https://pictures.example/"), "item_id")
    unsafe = pl.when(pl.col("item_id") == "i1").then(pl.lit("javascript:alert(1)")).otherwise(picture)
    bundle = with_columns(tiny, tmp_path / "pictured", image_url=unsafe)
    client = client_of(create_app(holder_of(bundle, store), store, clock=lambda: NOW))
    html = look(client, k=40)
    pictures = Parsed(html).all("img")
    assert {image["src"] for image in pictures} == {f"https://pictures.example/i{row}" for row in range(40) if row != 1}
    assert all(image["referrerpolicy"] == "no-referrer" and image["alt"] == "" for image in pictures)


def test_nothing_comes_from_elsewhere(client: TestClient) -> None:
    """No address outside stands in the page and its files, and the browser would load nothing but pictures from one."""
    answer = client.get("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' https:;")
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    texts = [answer.text, *(client.get(f"/page/{name}").text for name in FILES)]
    assert [found for text in texts for found in re.findall(r"https?://[^\"\s]*", text)] == [
        "http://www.w3.org/2000/svg"
    ]
    assert not re.search(r"\s(style|on\w+)=|<style|<script>", answer.text)  # which the policy refuses


def test_every_control_has_a_label_and_is_a_native_one(client: TestClient) -> None:
    """So that keyboards and screen readers work without any script."""
    parsed = Parsed(look(client, user="u3"))
    labels = {label["for"] for label in parsed.all("label")}
    controls = [*parsed.all("input"), *parsed.all("select")]
    assert {control["id"] for control in controls} == labels and len(controls) == 10
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(attributes.get("tabindex") in (None, "0", "-1") for _, attributes in parsed.elements)
    assert [button["type"] for button in parsed.all("button")] == ["submit"]
    assert parsed.all("html")[0]["lang"] == "en"


def test_two_models_stand_side_by_side_with_what_moved(tiny: Path, store: Store, tmp_path: Path) -> None:
    """Each by its own options, unless a slider says otherwise for both."""
    other = holder_of(with_config(tiny, tmp_path / "other", lists={"diversity": 0.9}), store)
    client = client_of(create_app(holder_of(tiny, store), store, compared=other, clock=lambda: NOW))
    first, second = Parsed(look(client, user="u3", diversity=0)).lists[-2:]
    assert first == recommended(client, user_id="u3", k=12)
    assert second == recommended(client, user_id="u3", k=12, diversity=0.9)
    html = look(client, user="u3")
    assert f"{len(set(first) & set(second))} of 12 items are in both lists" in html
    assert html.count("only here") == 2 * len(set(first) - set(second))
    first, second = Parsed(look(client, user="u3", diversity=0.4)).lists[-2:]
    assert first == second
    assert len(Parsed(look(client, user="u3", models="serving")).lists) == 2  # the history and one list


def test_the_compared_model_follows_the_items_of_the_store(tiny: Path, store: Store, tmp_path: Path) -> None:
    """Like the one that serves."""
    other = holder_of(with_config(tiny, tmp_path / "other", lists={"diversity": 0.9}), store)
    with client_of(create_app(holder_of(tiny, store), store, compared=other, clock=lambda: NOW)) as client:
        client.put("/v1/items", json={"items": [{"item_id": "late", "title": "red lamp"}]})
        deadline = time.monotonic() + 10
        while "late" not in other.snapshot.lookup.rows and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(Parsed(look(client, item="late")).lists[-1]) == 12


def test_what_the_compared_model_cannot_do_stands_in_its_column(tiny: Path, store: Store, tmp_path: Path) -> None:
    """And the first list stays: here, the other model was trained before the items had colours."""
    serving, other = (
        holder_of(with_columns(tiny, tmp_path / "new", colour=pl.lit("red")), store),
        holder_of(tiny, store),
    )
    client = client_of(create_app(serving, store, compared=other, clock=lambda: NOW))
    html = look(client, conditions="colour=red")
    assert "the items have no &#39;colour&#39;" in html and len(Parsed(html).lists[-2]) == 12


def test_reasons_say_what_the_item_is_like_and_what_the_user_did() -> None:
    """Strongest first; what the user's items have said is not said again of features, and features against it say nothing."""
    near = [SimilarItem(item_id="i2", title="Oak lamp", similarity=0.9)]
    features = [
        Contribution(feature=name, log_odds=odds)
        for name, odds in (
            ("similarity_best", 0.5),
            ("history_length", 0.4),
            ("brand_share", 0.3),
            ("popularity_7d", -0.2),
        )
    ]
    item = RankedItem(item_id="i1", title="Elm lamp", score=1, interest=1, p_click=0.1, p_purchase=0.1)
    item.reasons = Reasons(nearest=near, features=features)

    def said(**did: str) -> list[str]:
        return [
            "".join((each.before, each.title, each.after)) for each in words.sentences(item, did, ("i5", "Ash lamp"))
        ]

    assert said(i2="purchase") == [
        "like Oak lamp, which the user bought", "often met together with Ash lamp", "a brand that fits",
    ]  # fmt: skip
    assert said()[0] == "like Oak lamp"
    both = words.sentences(item, {"i2": "cart"}, ("i2", "Oak lamp"))
    assert both[0].after == ", which the user put into the cart, and often met together with this"
    item.reasons = Reasons(nearest=[SimilarItem(item_id="i1", title="Elm lamp", similarity=1)], features=features)
    assert said(i1="view")[0] == "the user viewed it before"


@pytest.fixture
def address(tiny: Path, store: Store) -> Iterator[str]:
    """Return the address of a server with the small bundle."""
    with listening(create_app(holder_of(tiny, store), store, clock=lambda: NOW)) as url:
        yield url


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; install it to see the page in a browser")
def test_in_a_browser_the_page_works_by_keyboard_and_fits_a_phone(address: str, tmp_path: Path) -> None:
    """A slider that the keys move changes the list, under the policy of the page, which refuses nothing that it needs."""
    with browser(tmp_path) as window:
        window.open(f"{address}/?user=u3")
        assert window.value("[...document.querySelectorAll('.list .title a')].length") == 12
        assert window.value("getComputedStyle(document.querySelector('main')).display") == "grid"
        for _ in range(30):
            window.press("Tab", 9)
            if window.value("document.activeElement.id") == "diversity":
                break
        window.press("End", 35)
        window.until("location.search.includes('diversity=1') && !document.querySelector('[aria-busy]')")
        shown = window.value("[...document.querySelectorAll('.list .title a')].map(link => link.search)")
        expected = listed(httpx.get(f"{address}/?user=u3&diversity=1").text)
        assert [query.removeprefix("?item=") for query in shown] == expected
        assert expected != listed(httpx.get(f"{address}/?user=u3").text)
        assert window.value("document.activeElement.id") == "diversity"
        assert window.value("document.querySelector('output').value") == "1.00"
        for width in (1280, 800, 390, 320):
            window.open(f"{address}/?user=u3&text=lamp", width)
            assert window.value("document.documentElement.scrollWidth <= innerWidth"), width
    assert window.complaints == []
