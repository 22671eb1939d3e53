"""People of the simulated shop who meet lists that it did not make, and click and buy by their tastes.

In: the truth of the shop. Out: what a user does with a list.

Shapes: N items, K list length.
"""

from collections.abc import Sequence

import numpy as np

from features.simulator.shop import buying
from features.simulator.truth import EXAMINED, REPEATED, Floats, Truth, click_logits, sigmoid


class Visitors:
    """Everybody of the simulated shop; they remember what they clicked."""

    def __init__(self, truth: Truth, seed: int = 0) -> None:
        self.truth, self.rng = truth, np.random.default_rng(seed)
        self.rows = {item: row for row, item in enumerate(truth.item_ids.tolist())}
        self.clicked = np.zeros((len(truth.user_signup), len(truth.item_ids)), bool)
        self.clicked[truth.request_user[truth.click_request], truth.click_item] = True

    def intent(self, user: int) -> Floats:
        """Draw one of the user's tastes; return `[2, N]` how likely each item, when looked at, is clicked, and then bought."""
        own = np.flatnonzero(self.truth.taste_user == user)
        prior = self.truth.taste_prior[own]
        logits = click_logits(self.truth, np.array([self.rng.choice(own, p=prior / prior.sum())]))
        click = sigmoid(logits + REPEATED * self.clicked[user])[0]
        every = np.arange(len(click))[None]
        return np.stack([click, buying(self.truth, np.array([user]), every, logits)[0]])

    def act(self, user: int, intent: Floats, item_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return the events (item id, type) of a user with this `intent` who meets a list of at most `LIST_LENGTH` items."""
        click, buy = intent
        items = np.array([self.rows[item] for item in item_ids], np.int64)
        clicked = items[self.rng.random(len(items)) < EXAMINED[: len(items)] * click[items]]
        bought = clicked[self.rng.random(len(clicked)) < buy[clicked]]
        self.clicked[user, clicked] = True
        ids = self.truth.item_ids
        return [(str(ids[row]), "click") for row in clicked] + [(str(ids[row]), "purchase") for row in bought]
