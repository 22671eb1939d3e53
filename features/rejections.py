"""What users said they do not want: events of the types `dislike` and `hide`.

In: coded events. Out: `Rejections`, and which items each user had rejected at a moment. A rejection stands until the user
does something with the item that takes it back (`TAKES_BACK`).

Shapes: U users with rejections, J rejections, R requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.item_lists import ItemLists
from recsys.arrays import Bools, Ints, offsets_of, spans
from recsys.events import DISLIKE, REJECTIONS, TAKES_BACK

NEVER = np.iinfo(np.int64).max
REJECTED = pl.Schema({"user_id": pl.String(), "item": pl.Int32(), "event_type": pl.String(), "timestamp": pl.Int64()})


def _numbers() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Rejections:
    """The rejections of a log, sorted by user and time."""

    user_ids: list[str] = field(default_factory=list)
    """U ids, ascending."""
    offsets: Ints = field(default_factory=lambda: np.zeros(1, np.int64))
    """`[U + 1]` user u's rejections are rows `offsets[u]:offsets[u + 1]`."""
    items: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """`[J]` item indexes."""
    disliked: Bools = field(default_factory=lambda: np.empty(0, bool))
    """`[J]` whether items like it are unwanted, too."""
    times: Ints = field(default_factory=_numbers)
    """`[J]` microseconds or ordinals."""
    until: Ints = field(default_factory=_numbers)
    """`[J]` when the user took it back; `NEVER` if not."""
    request_index: Ints = field(default_factory=_numbers)
    """`[J]` row of `EventLog.request_ids`: the request that it belongs to, or else that of the user's next event; -1 for none."""

    @classmethod
    def of(cls, events: pl.DataFrame, acted: pl.DataFrame) -> "Rejections":
        """Lay out the rejections `events` (user_id, item, event_type, timestamp, request) beside what else users did."""
        if not events.height:
            return cls()
        back = acted.filter(pl.col("event_type").cast(pl.String).is_in(TAKES_BACK))
        back = back.select("user_id", "item", timestamp="timestamp", until="timestamp").sort("timestamp")
        sorted_events = events.sort("timestamp", maintain_order=True).join_asof(
            back, on="timestamp", by=["user_id", "item"], strategy="forward", check_sortedness=False
        )
        frame = sorted_events.sort("user_id", maintain_order=True)
        users = frame.group_by("user_id", maintain_order=True).len()
        return cls(
            user_ids=users["user_id"].to_list(),
            offsets=offsets_of(users["len"].to_numpy()),
            items=frame["item"].to_numpy(),
            disliked=(frame["event_type"] == DISLIKE).to_numpy(),
            times=frame["timestamp"].to_numpy(),
            until=frame["until"].fill_null(NEVER).to_numpy(),
            request_index=frame["request"].fill_null(-1).to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.items)

    def table(self) -> pl.DataFrame:
        """Return the rejections that stand at the end of the log, with the columns `REJECTED`."""
        stands = self.until == NEVER
        users = np.repeat(np.array(self.user_ids, object), np.diff(self.offsets))[stands]
        kinds = np.where(self.disliked[stands], *REJECTIONS)
        return pl.DataFrame([users, self.items[stands], kinds, self.times[stands]], REJECTED)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return dict(zip(self.user_ids, range(len(self.user_ids)), strict=True))

    def at(self, user_ids: Sequence[str | None], now: Ints) -> "Rejected | None":
        """Return what the users of R requests had rejected before the times `now` `[R]`; None where nobody had."""
        if not len(self):
            return None
        rows = np.array([-1 if user is None else self._rows.get(user, -1) for user in user_ids], np.int64)
        counts = np.where(rows >= 0, np.diff(self.offsets)[rows], 0)
        found, owners = spans(self.offsets[rows], counts), np.repeat(np.arange(len(rows)), counts)
        stands = (self.times[found] < now[owners]) & (self.until[found] >= now[owners])

        def lists(kept: Bools) -> ItemLists:
            return ItemLists(offsets_of(np.bincount(owners[kept], minlength=len(rows))), self.items[found[kept]])

        return Rejected(lists(stands), lists(stands & self.disliked[found])) if stands.any() else None


@dataclass(frozen=True)
class Rejected:
    """The items that R users do not want."""

    items: ItemLists
    """In no list of theirs."""
    disliked: ItemLists
    """Those of them that nothing should be like, the latest last."""

    @classmethod
    def of(cls, requests: Sequence[Mapping[int, bool]]) -> "Rejected | None":
        """Return the items of each request, given with whether they are disliked; None where there is no item."""
        if not any(requests):
            return None
        items = ItemLists.of([np.fromiter(rejected, np.int32) for rejected in requests])
        disliked = [[item for item, disliked in rejected.items() if disliked] for rejected in requests]
        return cls(items, ItemLists.of([np.array(row, np.int32) for row in disliked]))

    @classmethod
    def join(cls, parts: Sequence["Rejected | None"], counts: Sequence[int]) -> "Rejected | None":
        """Put those of several groups of requests, of `counts` requests each, together."""
        if not any(parts):
            return None
        nothing = [Rejected(ItemLists.none(count), ItemLists.none(count)) for count in counts]
        known = [part or none for part, none in zip(parts, nothing, strict=True)]
        return cls(ItemLists.join([part.items for part in known]), ItemLists.join([part.disliked for part in known]))

    def rows(self, rows: slice | Ints) -> "Rejected":
        """Return those of some requests."""
        return Rejected(self.items.rows(rows), self.disliked.rows(rows))


def standing(events: Iterable[tuple[str, str]]) -> dict[str, bool]:
    """Return the items that were rejected and not taken back, and whether they were disliked.

    `events` are pairs of item id and event type, oldest first.
    """
    rejected: dict[str, bool] = {}
    for item, kind in events:
        if kind in REJECTIONS:
            rejected[item] = rejected.get(item, False) or kind == DISLIKE
        elif kind in TAKES_BACK:
            rejected.pop(item, None)
    return rejected
