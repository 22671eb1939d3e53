"""The truth of the simulated shop: how it shows items, how users click, and the ranking none can beat.

In: `truth.npz` of a dataset that `simulate` wrote. Out: `oracle_scores`, for every request and item
the probability that the item is shown and clicked.

Shapes: N items, A attributes, V users, S tastes of all users, R requests, K clicks, B a batch of requests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.errors import RecsysError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

LIST_LENGTH = 10
"""Items shown per request."""

EXAMINED: Floats = (np.arange(1, LIST_LENGTH + 1) ** -0.5).astype(np.float32)
"""Probability that a user looks at position 1, 2, .. of a list."""

TRUTH = "truth.npz"

_CELLS = 1_000_000  # of one [B, N] block
# The logit of a click on an item that is looked at.
_CLICK, _IN_CATEGORY, _LIKED, _FAVOURITE_BRAND, _QUALITY, REPEATED = -3.3, 1.1, 1.8, 0.5, 0.5, -1.5
# How often each part of the shop fills a position of the list.
_SHARE_POPULAR, _SHARE_BROWSED, _SHARE_ANY = 0.25, 0.6, 0.15


@dataclass(frozen=True)
class Truth:
    """What the simulator knows; requests are sorted by user and time, clicks by request."""

    item_ids: NDArray[np.str_]
    """`[N]` in the order of the items table."""
    item_category: Ints
    item_brand: Ints
    item_attributes: Floats
    """`[N, A]` 1 where the item has the attribute."""
    item_quality: Floats
    """`[N]` makes everybody click more."""
    item_popularity: Floats
    """`[N]` makes the shop show it more."""
    item_price_level: Floats
    """`[N]` logarithm of the price over its category's median."""
    item_created: Ints
    """`[N]` microseconds; never shown before."""
    user_signup: Ints
    """`[V]` microseconds; never seen before."""
    user_thrift: Floats
    """`[V]` how much the price level lowers the logit of a purchase."""
    taste_user: Ints
    """`[S]` rows of the users table, ascending."""
    taste_categories: Bools
    """`[S, categories]` where the user shops with this intent."""
    taste_likes: Floats
    """`[S, A]` 1 liked, -1 disliked."""
    taste_brand: Ints
    """`[S]` the user's favourite brand."""
    taste_prior: Floats
    """`[S]` share of the taste among its user's fresh intents; sums to 1 per user."""
    request_ids: NDArray[np.str_]
    """`[R]`"""
    request_user: Ints
    request_taste: Ints
    """`[R]` the intent, a row of the tastes."""
    request_time: Ints
    request_before: Ints
    """`[R]` intent of the user's request before; for the first one, its own, kept with probability 0."""
    request_kept: Floats
    """`[R]` probability that the intent before was kept: 0 first, 1 within a visit, between 0 and 1 for a new visit."""
    click_request: Ints
    """`[K]` rows of the requests, ascending."""
    click_item: Ints
    """`[K]` rows of the items."""


def load_truth(folder: Path) -> Truth | None:
    """Read the truth of a simulated dataset, or return None where `folder` has none.

    Raises:
        RecsysError: the file is damaged.
    """
    path = folder / TRUTH
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Truth(**{field.name: arrays[field.name] for field in fields(Truth)})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RecsysError(f"{path}: not the truth of a simulation ({error}); simulate the dataset again") from error


def oracle_scores(truth: Truth, request_ids: Sequence[str], know_intent: bool = True) -> Floats:
    """Return `[R, N]` the probability that each item is shown and clicked in each request.

    No ranking by what is known before the list is drawn is better in expectation. Without
    `know_intent` the present intent is averaged over what the user's tastes and intent before
    leave open: the bound for a model that knows the past perfectly.

    Raises:
        RecsysError: a request id is unknown.
    """
    rows = _find(truth, request_ids)
    scores = np.zeros((len(rows), len(truth.item_ids)), np.float32)
    indexes, tastes, weights = _beliefs(truth, rows, know_intent)
    for block in blocks(len(indexes), len(truth.item_ids)):
        index = indexes[block]
        expected = _expected_clicks(truth, rows[index], tastes[block])
        np.add.at(scores, index, weights[block, None] * expected)
    return scores


def _find(truth: Truth, request_ids: Sequence[str]) -> Ints:
    row_of = {name: row for row, name in enumerate(truth.request_ids.tolist())}
    unknown = [name for name in request_ids if name not in row_of]
    if unknown:
        raise RecsysError(
            f"{TRUTH}: {len(unknown)} unknown request ids, for example {unknown[0]!r}; "
            "ask for those of the dataset that it was simulated with"
        )
    return np.array([row_of[name] for name in request_ids], np.int64)


def _beliefs(truth: Truth, rows: Ints, know_intent: bool) -> tuple[Ints, Ints, Floats]:
    """Return pairs of an index in `rows` and a taste that may be its intent, with their probabilities."""
    if know_intent:
        return np.arange(len(rows)), truth.request_taste[rows], np.ones(len(rows), np.float32)
    user = truth.request_user[rows]
    first = np.searchsorted(truth.taste_user, user)
    counts = np.searchsorted(truth.taste_user, user, side="right") - first
    indexes = np.repeat(np.arange(len(rows)), counts)
    tastes = np.arange(len(indexes)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    kept = truth.request_kept[rows][indexes]
    same = tastes == truth.request_before[rows][indexes]
    return indexes, tastes, kept * same + (1 - kept) * truth.taste_prior[tastes]


def _expected_clicks(truth: Truth, rows: Ints, tastes: Ints) -> Floats:
    """Return `[B, N]` the probability of shown and clicked in the requests `rows` under `tastes`."""
    logits = click_logits(truth, tastes)
    starts = np.searchsorted(truth.request_user, truth.request_user[rows])
    spans = np.searchsorted(truth.click_request, np.stack([starts, rows], 1))
    for logit, (start, stop) in zip(logits, spans, strict=True):
        logit[np.unique(truth.click_item[start:stop])] += REPEATED
    clicked: Floats = _examination(policy(truth, tastes, truth.request_time[rows])) * sigmoid(logits)
    return clicked


def liking(truth: Truth, tastes: Ints) -> tuple[Floats, Floats]:
    """Return `[B, N]` whether the category fits and how many attributes are liked, less disliked."""
    fits = truth.taste_categories[tastes][:, truth.item_category].astype(np.float32)
    return fits, truth.taste_likes[tastes] @ truth.item_attributes.T


def click_logits(truth: Truth, tastes: Ints) -> Floats:
    """Return `[B, N]` the logit of a click on each item once it is looked at."""
    fits, liked = liking(truth, tastes)
    logits = _CLICK + _IN_CATEGORY * fits
    logits += _LIKED * liked * (0.2 + 0.8 * fits)  # an attribute matters little on the wrong shelf
    logits += _FAVOURITE_BRAND * (truth.item_brand == truth.taste_brand[tastes][:, None])
    logits += _QUALITY * truth.item_quality
    return logits


def policy(truth: Truth, tastes: Ints, times: Ints) -> Floats:
    """Return `[B, N]` the weight by which the shop draws items; rows sum to 1, future items have 0."""
    fits, liked = liking(truth, tastes)
    there = (truth.item_created <= times[:, None]).astype(np.float32)
    browsed = there * fits * np.exp(0.9 * liked + 0.4 * truth.item_popularity)
    popular = there * np.exp(truth.item_popularity)
    parts = ((_SHARE_POPULAR, popular), (_SHARE_BROWSED, browsed), (_SHARE_ANY, there))
    weights = np.zeros_like(there)
    for share, part in parts:
        weights += share * part / np.maximum(part.sum(1, keepdims=True), 1e-9)
    normed: Floats = weights / weights.sum(1, keepdims=True)
    return normed


def _examination(weights: Floats) -> Floats:
    """Return `[B, N]` the probability that each item is shown and looked at.

    Drawing without replacement is a race of exponential clocks with rates `weights` (Rosén 1997,
    "On sampling with probability proportional to size"): position p is what rings between the
    moments by which p - 1 and p clocks are expected to have rung.
    """
    moment = np.zeros((len(weights), 1), np.float32)
    before = np.ones_like(weights)
    looked = np.zeros_like(weights)
    for position in range(1, LIST_LENGTH + 1):
        silent = before
        for _ in range(3):  # Newton from below: the expected count is concave in time
            missing = position - (1 - silent).sum(1, keepdims=True)
            moment = moment + missing / (weights * silent).sum(1, keepdims=True)
            silent = np.exp(-weights * moment)
        looked += EXAMINED[position - 1] * (before - silent)
        before = silent
    return looked


def sigmoid(logits: Floats) -> Floats:
    """Return the probabilities of `logits`, which are small here."""
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices over `rows` rows of `width` numbers that bound the memory in use."""
    step = max(1, _CELLS // width)
    for start in range(0, rows, step):
        yield slice(start, start + step)
