"""Users whose lists two models disagree about most.

In: two models. Out: the users, with the latest titles of their histories and of both lists.
"""

from dataclasses import dataclass

import polars as pl

from serving.model import Model

LOOKED_AT = 300
"""Users whose lists are made, drawn among those that both models know."""
LENGTH = 10
"""Items of a list."""
FEWEST = 3
"""Events that the history of an example has at least: fewer hardly say what a user likes."""


@dataclass(frozen=True)
class ChangedList:
    """A user whose list differs."""

    user_id: str
    history: list[str]
    """Titles, the latest first."""
    before: dict[str, str]
    """The first model's list: item ids, each with its title."""
    after: dict[str, str]
    """That of the other."""

    @property
    def shared(self) -> int:
        """How many items are in both."""
        return len(self.before.keys() & self.after.keys())


def most_changed(first: Model, other: Model, count: int, seed: int = 0) -> list[ChangedList]:
    """Return `count` users whose first `LENGTH` items have the fewest in common, those with the longest histories first."""
    both = first.users.filter(first.users.is_in(other.users.implode()))
    users = both.sample(min(LOOKED_AT, len(both)), seed=seed).to_list()
    histories = {user: first.history(user)["title"].reverse().to_list() for user in users}
    users = [user for user in users if len(histories[user]) >= FEWEST]
    lists = [_by_user(model.recommend(users, k=LENGTH)) for model in (first, other)]
    changed = [ChangedList(user, histories[user], *(made[user] for made in lists)) for user in users]
    return sorted(changed, key=lambda one: (one.shared, -len(one.history)))[:count]


def _by_user(lists: pl.DataFrame) -> dict[str, dict[str, str]]:
    """Return the list of each user: item ids with their titles."""
    rows = lists.group_by("user_id", maintain_order=True).agg("item_id", "title").rows()
    return {user: dict(zip(items, titles, strict=True)) for user, items, titles in rows}
