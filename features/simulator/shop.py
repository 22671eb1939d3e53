"""The simulated shop: a dataset whose true tastes are known, so that the best possible ranking is too.

In: numbers of users and items, and a seed. Out: a dataset folder (items, events with impressions
and positions, users, queries, `dataset.json`) and `truth.npz`, from which `oracle_scores` ranks every item.

A visit has an intent, one of the user's 1 to 3 tastes: one or two categories, two liked attributes
and maybe a disliked one. The shop shows ten items per request, the user looks at position p with
probability 1/sqrt(p), clicks by taste, and buys some of the clicked items by taste and price.

Shapes: N items, A attributes, V users, S tastes of all users, R requests, K clicks, B a batch of
requests.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.simulator.queries import query_table
from features.simulator.text import (
    ALLOWED,
    ATTRIBUTES,
    BRANDS,
    CATEGORIES,
    CATEGORY_NAMES,
    mentions,
    write_texts,
)
from features.simulator.truth import (
    EXAMINED,
    LIST_LENGTH,
    REPEATED,
    TRUTH,
    Bools,
    Floats,
    Ints,
    Truth,
    blocks,
    click_logits,
    load_truth,
    oracle_scores,
    policy,
    sigmoid,
)
from features.texts.items import entity_texts
from features.texts.spans import Span, write_spans
from recsys.atomic import atomic_folder
from recsys.errors import RecsysError
from recsys.events import DAY_US

__all__ = ["Truth", "load_truth", "oracle_scores", "simulate"]

Arrays = dict[str, NDArray[Any]]

PERIOD_DAYS = 120
END_US = int(datetime(2026, 7, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""The log ends before this moment."""
START_US = END_US - PERIOD_DAYS * DAY_US
MIN_ITEMS = 50

_STICKY = 0.7  # probability that a visit keeps the intent of the visit before
_BUY, _BUY_WANTED = -2.4, 0.5  # the logit of buying what was clicked, and what its click logit adds
_MINUTE_US = 60_000_000


def simulate(out: Path, users: int = 2000, items: int = 1500, seed: int = 7) -> None:
    """Write a simulated dataset of `users` and `items` into the folder `out`, complete or not at all.

    The same arguments give the same bytes.

    Raises:
        RecsysError: `out` exists and is not an empty folder, or there are too few users or items.
    """
    if users < 1 or items < MIN_ITEMS:
        raise RecsysError(f"simulate: got {users} users and {items} items; at least 1 and {MIN_ITEMS} are needed")
    try:
        with atomic_folder(out) as folder:
            _write(folder, users, items, seed)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RecsysError(f"{out}: cannot be written ({error}); nothing was left behind") from error


def _write(folder: Path, users: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = _draw_truth(rng, users, items)
    impressions, logits = _show(rng, truth)
    clicked = _click(rng, truth, impressions, logits)
    bought = clicked & _would_buy(rng, truth, impressions, logits)
    request, column = np.nonzero(clicked)
    truth = replace(truth, click_request=request, click_item=impressions[request, column])
    _item_table(rng, truth).write_parquet(folder / "items.parquet")
    _event_table(rng, truth, impressions, clicked, bought).write_parquet(folder / "events.parquet")
    _user_table(truth).write_parquet(folder / "users.parquet")
    query_table(truth, seed).write_parquet(folder / "queries.parquet")
    np.savez_compressed(folder / TRUTH, allow_pickle=False, **vars(truth))
    about = {
        "name": "simulated-shop",
        "source": f"simulated with {users} users, {items} items and seed {seed}",
        "licence": "CC0-1.0",
        "split": "time",
        "timestamp": "utc",
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def label(folder: Path, count: int, seed: int = 0) -> tuple[Path, Path]:
    """Write the texts of `count` items of a simulated dataset with the places that express their true attributes, and those of all other items.

    Returns:
        `labelled.jsonl` and `others.jsonl` in `folder`, as `features.texts.spans` reads them.

    Raises:
        RecsysError: the dataset is not simulated, or has fewer items.
    """
    truth = load_truth(folder)
    if truth is None:
        raise RecsysError(f"{folder}: no {TRUTH}; only a simulated dataset knows its attributes")
    items = pl.read_parquet(folder / "items.parquet")
    if not 0 < count < items.height:
        raise RecsysError(f"{folder}: {count:,} items to label of {items.height:,}; label fewer than all")
    texts = entity_texts(items)
    spans = [
        [Span(*place) for place in mentions(title, description, has)]
        for (title, description), has in zip(
            items.select("title", "description").iter_rows(), truth.item_attributes > 0, strict=True
        )
    ]
    order = np.random.default_rng(seed).permutation(items.height)
    written = []
    for name, rows in (("labelled", order[:count]), ("others", order[count:])):
        path = folder / f"{name}.jsonl"
        write_spans(path, [texts[row] for row in rows], [spans[row] for row in rows])
        written.append(path)
    return written[0], written[1]


def _draw_truth(rng: np.random.Generator, users: int, items: int) -> Truth:
    nothing = np.empty(0, np.int64)
    parts = _draw_items(rng, items) | _draw_users(rng, users)
    parts |= _draw_tastes(rng, users)
    parts |= _draw_requests(rng, parts)
    return Truth(**parts, click_request=nothing, click_item=nothing)


def _draw_items(rng: np.random.Generator, n: int) -> Arrays:
    category = rng.integers(len(CATEGORIES), size=n)
    first_two, third = np.split(_some(rng, ALLOWED[category], 3), [2], axis=1)
    has = np.zeros((n, len(ATTRIBUTES)), np.float32)
    np.put_along_axis(has, first_two, 1, axis=1)
    np.put_along_axis(has, third, rng.random((n, 1)) < 0.8, axis=1)
    has[:, ATTRIBUTES.index("expert")] *= 1 - has[:, ATTRIBUTES.index("beginner")]  # no item is for both
    brand = _some(rng, _carried()[category], 1)[:, 0]
    quality = rng.normal(size=n)
    tier = rng.normal(0, 0.35, len(BRANDS))
    new = rng.permutation(n) < n // 4
    age_days = np.where(new, -PERIOD_DAYS, 720) * rng.random(n)
    return {
        "item_ids": np.array([f"i{row:06d}" for row in range(n)]),
        "item_category": category,
        "item_brand": brand,
        "item_attributes": has,
        "item_quality": quality.astype(np.float32),
        "item_popularity": (rng.normal(size=n) + 0.4 * quality).astype(np.float32),
        "item_price_level": (tier[brand] + rng.normal(0, 0.3, n)).astype(np.float32),
        "item_created": START_US - (age_days * DAY_US).astype(np.int64),
    }


def _draw_users(rng: np.random.Generator, n: int) -> Arrays:
    new = rng.random(n) < 0.3
    day = np.where(new, rng.integers(0, PERIOD_DAYS, n), -rng.integers(1, 366, n))
    return {"user_signup": START_US + day * DAY_US, "user_thrift": rng.lognormal(0.4, 0.5, n).astype(np.float32)}


def _draw_tastes(rng: np.random.Generator, users: int) -> Arrays:
    owner = np.repeat(np.arange(users), rng.choice(3, size=users, p=[0.4, 0.4, 0.2]) + 1)
    rows = np.arange(len(owner))
    first, second = rng.integers(len(CATEGORIES), size=(2, len(owner)))
    categories = np.zeros((len(owner), len(CATEGORIES)), np.bool_)
    categories[rows, second] = rng.random(len(owner)) < 0.3
    categories[rows, first] = True
    minded = _some(rng, ALLOWED[first], 3)
    likes = np.zeros((len(owner), len(ATTRIBUTES)), np.float32)
    np.put_along_axis(likes, minded[:, :2], 1, axis=1)
    likes[rows, minded[:, 2]] = -(rng.random(len(owner)) < 0.5).astype(np.float32)
    share = rng.gamma(2, size=len(owner))
    return {
        "taste_user": owner,
        "taste_categories": categories,
        "taste_likes": likes,
        "taste_brand": rng.integers(len(BRANDS), size=users)[owner],
        "taste_prior": (share / np.bincount(owner, share)[owner]).astype(np.float32),
    }


def _draw_requests(rng: np.random.Generator, parts: Arrays) -> Arrays:
    """Draw the visits of every user, at most one a day, their intents, and 1 to 3 requests in each."""
    first_day = np.maximum(0, (parts["user_signup"] - START_US) // DAY_US)
    days = PERIOD_DAYS - first_day
    visits = 1 + rng.poisson(rng.gamma(0.8, 4.6, len(days)) * days / PERIOD_DAYS)
    user = np.repeat(np.arange(len(days)), visits)
    day = first_day[user] + (rng.random(len(user)) * days[user]).astype(np.int64)
    user, day = np.divmod(np.unique(user * PERIOD_DAYS + day), PERIOD_DAYS)
    # Most come in the evening; nobody in the last hour, so that a visit ends on its day.
    minute = (rng.normal(19, 4, len(user)) * 60 % (23 * 60)).astype(np.int64)
    intent, fresh = _draw_intents(rng, user, parts)
    requests = rng.choice(3, size=len(user), p=[0.75, 0.2, 0.05]) + 1
    visit = np.repeat(np.arange(len(user)), requests)
    turn = np.arange(len(visit)) - np.repeat(np.cumsum(requests) - requests, requests)
    taste = intent[visit]
    seconds = rng.integers(0, 60, len(visit))
    kept = np.where(fresh, 0, _STICKY)[visit]
    return {
        "request_ids": np.array([f"r{row:07d}" for row in range(len(visit))]),
        "request_user": user[visit],
        "request_taste": taste,
        "request_time": START_US + day[visit] * DAY_US + (minute[visit] + 6 * turn) * _MINUTE_US + seconds * 1_000_000,
        "request_before": np.where((turn == 0) & fresh[visit], taste, np.roll(taste, 1)),
        "request_kept": np.where(turn > 0, 1, kept).astype(np.float32),
    }


def _draw_intents(rng: np.random.Generator, user: Ints, parts: Arrays) -> tuple[Ints, Bools]:
    """Return the taste of every visit, and which visits are the first of their user."""
    first = np.diff(user, prepend=-1) > 0
    owner, prior = parts["taste_user"], parts["taste_prior"].astype(np.float64)
    # Tastes of user u share the interval [u, u + 1).
    drawn = np.searchsorted(np.cumsum(prior), user + rng.random(len(user)), side="right")
    low, high = np.searchsorted(owner, user), np.searchsorted(owner, user, side="right") - 1
    decided = first | (rng.random(len(user)) >= _STICKY)
    since = np.maximum.accumulate(np.where(decided, np.arange(len(user)), 0))
    return np.clip(drawn, low, high)[since], first


def _show(rng: np.random.Generator, truth: Truth) -> tuple[Ints, Floats]:
    """Return `[R, list]` the items shown, in order of position, and the logits of clicks on them."""
    impressions, logits = [], []
    for block in blocks(len(truth.request_ids), len(truth.item_ids)):
        tastes = truth.request_taste[block]
        weights = policy(truth, tastes, truth.request_time[block])
        # The first to ring among clocks of these rates are a draw without replacement.
        rings = rng.standard_exponential(weights.shape, np.float32) / np.maximum(weights, 1e-30)
        best = np.argpartition(rings, LIST_LENGTH)[:, :LIST_LENGTH]
        best = np.take_along_axis(best, np.take_along_axis(rings, best, 1).argsort(1), 1)
        impressions.append(best)
        logits.append(np.take_along_axis(click_logits(truth, tastes), best, 1))
    return np.concatenate(impressions), np.concatenate(logits)


def _click(rng: np.random.Generator, truth: Truth, impressions: Ints, logits: Floats) -> Bools:
    """Return `[R, list]` what is clicked; what the user clicked before attracts less."""
    draws = rng.random(impressions.shape)
    clicked = np.zeros(impressions.shape, np.bool_)
    pair = truth.request_user[:, None] * len(truth.item_ids) + impressions
    starts = np.searchsorted(truth.request_user, truth.request_user)
    turn = np.arange(len(impressions)) - starts
    for rows in np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1]):
        again = np.isin(pair[rows], pair[clicked])
        clicked[rows] = draws[rows] < EXAMINED * sigmoid(logits[rows] + REPEATED * again)
    return clicked


def _would_buy(rng: np.random.Generator, truth: Truth, impressions: Ints, logits: Floats) -> Bools:
    bought: Bools = rng.random(impressions.shape) < buying(truth, truth.request_user, impressions, logits)
    return bought


def buying(truth: Truth, users: Ints, items: Ints, logits: Floats) -> Floats:
    """Return the probability `[B, n]` that `users` `[B]` buy each of `items` `[B, n]` once they clicked it, by the click's `logits`."""
    dear = truth.user_thrift[users][:, None] * truth.item_price_level[items]
    return sigmoid(_BUY + _BUY_WANTED * logits - dear)


def _item_table(rng: np.random.Generator, truth: Truth) -> pl.DataFrame:
    texts = write_texts(rng, truth.item_category, truth.item_brand, truth.item_attributes > 0)
    median = np.array([category.median_price for category in CATEGORIES.values()])
    return pl.DataFrame(
        {
            "item_id": truth.item_ids.tolist(),
            "title": texts.titles,
            "description": texts.descriptions,
            "tags": texts.tags,
            "brand": [BRANDS[row] for row in truth.item_brand],
            "category": [CATEGORY_NAMES[row] for row in truth.item_category],
            "price": (median[truth.item_category] * np.exp(truth.item_price_level)).round(2),
            "created_at": truth.item_created,
        }
    )


def _user_ids(truth: Truth) -> list[str]:
    return [f"u{row:06d}" for row in range(len(truth.user_signup))]


def _user_table(truth: Truth) -> pl.DataFrame:
    return pl.DataFrame({"user_id": _user_ids(truth), "signup": truth.user_signup})


def _event_table(
    rng: np.random.Generator, truth: Truth, impressions: Ints, clicked: Bools, bought: Bools
) -> pl.DataFrame:
    """Return one impression or click per item shown, and the purchases some seconds later."""
    seen = _events_at(truth, impressions, np.ones_like(clicked), np.where(clicked, "click", "impression"))
    purchases = _events_at(truth, impressions, bought, np.full(impressions.shape, "purchase")).with_columns(
        pl.col("timestamp") + rng.integers(20, 240, int(bought.sum())) * 1_000_000
    )
    return pl.concat([seen, purchases]).sort("timestamp", "request_id", "position", maintain_order=True)


def _events_at(truth: Truth, impressions: Ints, where: Bools, types: NDArray[np.str_]) -> pl.DataFrame:
    request, column = np.nonzero(where)
    session = np.cumsum(truth.request_kept < 1) - 1
    return pl.DataFrame(
        {
            "user_id": pl.Series(_user_ids(truth)).gather(truth.request_user[request]),
            "item_id": pl.Series(truth.item_ids.tolist()).gather(impressions[request, column]),
            "event_type": types[request, column].tolist(),
            "timestamp": truth.request_time[request],
            "session_id": pl.Series([f"s{row:07d}" for row in range(session[-1] + 1)]).gather(session[request]),
            "request_id": pl.Series(truth.request_ids.tolist()).gather(request),
            "position": (column + 1).astype(np.int32),
        }
    )


def _some(rng: np.random.Generator, allowed: Bools, count: int) -> Ints:
    """Return `[n, count]` different columns at random where `allowed` `[n, columns]` is true."""
    return np.argsort(np.where(allowed, rng.random(allowed.shape), 2.0), axis=1)[:, :count]


def _carried() -> Bools:
    """Return `[categories, brands]` which brand makes what: three categories each, ten brands each."""
    carried = np.zeros((len(CATEGORIES), len(BRANDS)), np.bool_)
    brand = np.arange(len(BRANDS))
    for step in (1, 5, 7):
        carried[(step * brand + step) % len(CATEGORIES), brand] = True
    return carried
