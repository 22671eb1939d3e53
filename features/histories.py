"""Histories and requests: what users did, as jagged arrays, and the moments to predict.

In: a dataset's events with a column `split`. Out: `EventLog` (events sorted by user and time),
`Histories` (what was known at a moment, `[R, L]`) and `Requests` (a moment and what followed).

Shapes: V users of the log, E events, R requests, L history positions, T targets.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.data.dataset import Dataset
from features.data.split import assign_splits
from recsys.config import Config
from recsys.events import EVENT_TYPES, IMPRESSION, SPLITS

EARLY, LATE, VALID, TEST = range(4)
"""Segments of the log in time; `EARLY` and `LATE` are the two parts of the split `train`."""

Ints = NDArray[np.int64]

KEY_SEPARATOR = "\x1f"
"""Between user id and request id, since two users may share a request id."""


@dataclass(frozen=True)
class Histories:
    """What R users had done before a moment; right-aligned, -1 pads `items` on the left."""

    items: NDArray[np.int32]
    """`[R, L]` item indexes, oldest first."""
    types: NDArray[np.int8]
    """`[R, L]` event type codes."""
    times: Ints
    """`[R, L]` microseconds or ordinals."""
    now: Ints
    """`[R]` the moment of the request."""

    def __len__(self) -> int:
        return len(self.now)

    def rows(self, rows: slice | Ints) -> "Histories":
        """Return the histories of some requests."""
        return Histories(self.items[rows], self.types[rows], self.times[rows], self.now[rows])

    @property
    def lengths(self) -> Ints:
        """`[R]` how many events each history has."""
        return (self.items >= 0).sum(1)

    def trimmed(self) -> "Histories":
        """Return the histories without the columns in which all of them are padded, but for the last."""
        start = self.items.shape[1] - max(int(self.lengths.max(initial=0)), 1)
        return Histories(self.items[:, start:], self.types[:, start:], self.times[:, start:], self.now)


@dataclass(frozen=True)
class Requests:
    """R moments at which a list was, or could have been, shown, and what the user then did."""

    users: Ints
    """`[R]` user rows of the log."""
    times: Ints
    """`[R]` the moment; only events strictly before it are known."""
    offsets: Ints
    """`[R + 1]` request r's targets are `targets[offsets[r]:offsets[r + 1]]`."""
    targets: NDArray[np.int32]
    """`[T]` item indexes, each once per request."""
    types: NDArray[np.int8]
    """`[T]` the strongest event type on each target."""
    request_index: Ints
    """`[R]` row of `EventLog.impression_offsets`; -1 where nothing is known of what was shown."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, rows: Ints) -> "Requests":
        """Return some requests, in the order of `rows`."""
        counts = np.diff(self.offsets)[rows]
        places = spans(self.offsets[rows], counts)
        return Requests(
            self.users[rows],
            self.times[rows],
            offsets_of(counts),
            self.targets[places],
            self.types[places],
            self.request_index[rows],
        )


@dataclass(frozen=True)
class EventLog:
    """Everything but impressions, sorted by user and time; impressions apart, by request."""

    user_ids: list[str]
    offsets: Ints
    """`[V + 1]` user v's events are rows `offsets[v]:offsets[v + 1]`."""
    items: NDArray[np.int32]
    types: NDArray[np.int8]
    times: Ints
    segments: NDArray[np.int8]
    request_index: Ints
    """`[E]` request of each event, a row of `impression_offsets`; -1 without one."""
    impressions: NDArray[np.int32]
    """Items shown without action, by request."""
    impression_offsets: Ints
    request_ids: list[str]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def user_rows(self) -> Ints:
        """`[E]` the user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))

    @cached_property
    def _order(self) -> tuple[Ints, Ints]:
        return moment_keys(self.user_rows, self.times)

    def only(self, keep: NDArray[np.bool_]) -> "EventLog":
        """Return the log of the events `keep` `[E]`, with the same users and requests."""
        counts = np.bincount(self.user_rows[keep], minlength=len(self.user_ids))
        return replace(
            self,
            offsets=offsets_of(counts),
            items=self.items[keep],
            types=self.types[keep],
            times=self.times[keep],
            segments=self.segments[keep],
            request_index=self.request_index[keep],
        )

    def in_segments(self, *segments: int) -> "EventLog":
        """Return the log of the events in `segments`."""
        return self.only(np.isin(self.segments, segments))

    def histories(self, users: Ints, before: Ints, length: int) -> Histories:
        """Return the last `length` events of `users` `[R]` strictly before the times `before` `[R]`."""
        moments, order = self._order
        scale = len(moments) + 1
        stops = np.searchsorted(order, users * scale + np.searchsorted(moments, before))
        places = stops[:, None] - np.arange(length, 0, -1)  # [R, L]
        valid = places >= self.offsets[users][:, None]
        places = np.where(valid, places, 0)
        if not len(self):
            places = np.empty((len(users), 0), np.int64)
            valid = places > 0
        return Histories(
            np.where(valid, self.items[places], -1).astype(np.int32),
            np.where(valid, self.types[places], 0).astype(np.int8),
            np.where(valid, self.times[places], 0),
            before,
        )

    def requests(self, *segments: int) -> Requests:
        """Return the requests whose events lie in `segments`, in order of time.

        Events of a user are one request when they share a request id, or else a timestamp.
        """
        rows = np.flatnonzero(np.isin(self.segments, segments))
        if not len(rows):
            empty = np.empty(0, np.int64)
            return Requests(empty, empty, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int8), empty)
        frame = pl.DataFrame(
            {
                "user": self.user_rows[rows],
                "key": self.request_index[rows],
                "time": self.times[rows],
                "item": self.items[rows],
                "type": self.types[rows],
            }
        )
        moment = pl.when(pl.col("key") >= 0).then(-1).otherwise(pl.col("time"))
        grouped = (
            frame.with_columns(moment=moment)
            .group_by("user", "key", "moment", "item")
            .agg(pl.col("time").min(), pl.col("type").max())
            .group_by("user", "key", "moment")
            .agg(pl.col("time").min(), pl.struct("item", "type").sort_by("item").alias("targets"))
            .sort("time", "user", "key")
        )
        targets = grouped.select(pl.col("targets").explode()).unnest("targets")
        return Requests(
            grouped["user"].to_numpy(),
            grouped["time"].to_numpy(),
            offsets_of(grouped["targets"].list.len().to_numpy()),
            targets["item"].to_numpy(),
            targets["type"].to_numpy(),
            grouped["key"].to_numpy(),
        )


def read_log(dataset: Dataset, config: Config, item_ids: pl.Series | None = None) -> EventLog:
    """Return the dataset's split log over the catalogue `item_ids` (its own by default)."""
    rule = dataset.info.split if config.data.split == "dataset" else config.data.split
    events = assign_splits(dataset.events, rule, config.data.valid_share, config.data.test_share)
    return build_log(events, dataset.items["item_id"] if item_ids is None else item_ids, config.ranker.slice_share)


def build_log(events: pl.LazyFrame, item_ids: pl.Series, late_share: float) -> EventLog:
    """Build the log from events with a column `split`; the last `late_share` of train is `LATE`."""
    frame = _encoded(events, item_ids, late_share)
    acted = frame.filter(pl.col("type") != IMPRESSION)
    users = acted.select(pl.col("user_id").unique().sort()).to_series()
    rows = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    acted = acted.join(rows, on="user_id", maintain_order="left").sort("user", "time", maintain_order=True)
    keys = frame.filter(pl.col("key").is_not_null()).select(pl.col("key").unique().sort()).to_series()
    key_rows = pl.DataFrame({"key": keys, "row": np.arange(len(keys))}, schema={"key": pl.String, "row": pl.Int64})
    impressions = (
        frame.filter((pl.col("type") == IMPRESSION) & pl.col("key").is_not_null())
        .join(key_rows, on="key", maintain_order="left")
        .sort("row", maintain_order=True)
    )
    acted = acted.join(key_rows, on="key", how="left", maintain_order="left")
    return EventLog(
        user_ids=users.to_list(),
        offsets=offsets_of(np.bincount(acted["user"].to_numpy(), minlength=len(users))),
        items=acted["item"].to_numpy(),
        types=acted["type"].to_numpy(),
        times=acted["time"].to_numpy(),
        segments=acted["segment"].to_numpy(),
        request_index=acted["row"].fill_null(-1).to_numpy(),
        impressions=impressions["item"].to_numpy(),
        impression_offsets=offsets_of(np.bincount(impressions["row"].to_numpy(), minlength=len(keys))),
        request_ids=keys.str.split(KEY_SEPARATOR).list.last().to_list(),
    )


def _encoded(events: pl.LazyFrame, item_ids: pl.Series, late_share: float) -> pl.DataFrame:
    items = pl.LazyFrame({"item_id": item_ids, "item": np.arange(len(item_ids), dtype=np.int32)})
    columns = events.collect_schema().names()
    key = pl.concat_str("user_id", "request_id", separator=KEY_SEPARATOR) if "request_id" in columns else pl.lit(None)
    train = (pl.col("split") == "train") & (pl.col("event_type") != "impression")
    cut = pl.col("timestamp").filter(train).quantile(1 - late_share, "higher")
    segment = pl.col("split").replace_strict(dict(zip(SPLITS, (EARLY, VALID, TEST), strict=True)), return_dtype=pl.Int8)
    late = (pl.col("split") == "train") & (pl.col("timestamp") >= cut)
    codes = {name: code for code, name in enumerate(EVENT_TYPES)}
    return (
        events.join(items, on="item_id", maintain_order="left")
        .select(
            "user_id",
            "item",
            type=pl.col("event_type").replace_strict(codes, return_dtype=pl.Int8),
            time=pl.col("timestamp"),
            segment=pl.when(late).then(pl.lit(LATE, pl.Int8)).otherwise(segment),
            key=key.cast(pl.String),
        )
        .collect()
    )


def moment_keys(owners: Ints, times: Ints) -> tuple[Ints, Ints]:
    """Return the distinct times, and for each event a number `[E]` that grows with its owner, then with its time."""
    moments = np.unique(times)
    return moments, owners * (len(moments) + 1) + np.searchsorted(moments, times)


def offsets_of(counts: NDArray[np.integer]) -> Ints:
    """Return the offsets `[n + 1]` of runs of `counts` `[n]`."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def spans(starts: Ints, counts: NDArray[np.integer]) -> Ints:
    """Return the concatenated ranges `starts[i] .. starts[i] + counts[i]`."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)
