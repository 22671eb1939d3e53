"""The event log, the histories of users at a moment, and the requests to predict.

In: a dataset's events. Out: `EventLog` (events sorted by user and time), `Histories` (what users had
done before a moment) and `Requests` (moments, and the items that users chose then).

Shapes: V users of the log, E events, Q request ids, I impressions, R requests, L history positions, T targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.context import (
    OF_EVENT,
    SESSION,
    ContextColumns,
    Named,
    UserAttributes,
    event_columns,
    fit_columns,
    objects,
)
from features.data.dataset import Dataset
from features.data.split import SplitRule, assign_splits
from features.item_lists import ItemLists
from features.keys import SortedRuns
from features.rejections import Rejected, Rejections
from recsys.arrays import Bools, Floats, found_in, offsets_of, spans
from recsys.arrays import Ints as Ints  # re-exported
from recsys.config import Config, RankerConfig
from recsys.events import EVENT_TYPES, IMPRESSION, LOGGED_TYPES, REJECTIONS, SPLITS, microseconds

EARLY, LATE, VALID, TEST = range(4)
"""Segments of the log in time; `EARLY` and `LATE` are the two parts of the split `train`."""

KEY_SEPARATOR = "\x1f"
OPINION = "opinion"
"""The column of coded events with what their texts say."""
"""Stands between user id and request id, since two users may have the same request id."""


@dataclass(frozen=True)
class Histories:
    """What R users had done before a moment; right-aligned, `items` padded with -1 on the left."""

    items: NDArray[np.int32]
    """`[R, L]` item indexes, oldest first."""
    types: NDArray[np.int8]
    """`[R, L]` event type codes."""
    times: Ints
    """`[R, L]` microseconds or ordinals."""
    now: Ints
    """`[R]` moment of the request."""
    earlier: ItemLists | None = None
    """The items of what lies before the L events, for the rule on seen items; None where nothing does."""
    named: Named = field(default_factory=dict)
    """What else is known of the requests: their context, and the attributes of their users."""
    in_session: Bools | None = None
    """`[R, L]` events of the session in which the request is made; None where sessions are not known."""
    rejected: Rejected | None = None
    """What the users do not want; None where none said so."""

    def __len__(self) -> int:
        return len(self.now)

    @classmethod
    def join(cls, parts: Sequence["Histories"]) -> "Histories":
        """Put the histories of several requests together; all of them are of one length."""
        names = ("items", "types", "times", "now")
        items, types, times, now = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        earlier = None
        if any(part.earlier for part in parts):
            earlier = ItemLists.join([part.earlier or ItemLists.none(len(part)) for part in parts])
        named = {name: np.concatenate([part.named[name] for part in parts]) for name in parts[0].named}
        known = [part.in_session for part in parts if part.in_session is not None]
        in_session = np.concatenate(known) if known else None
        rejected = Rejected.join([part.rejected for part in parts], [len(part) for part in parts])
        return cls(items, types, times, now, earlier, named, in_session, rejected)

    def rows(self, rows: slice | Ints) -> "Histories":
        """Return the histories of some requests."""
        earlier = self.earlier.rows(rows) if self.earlier else None
        return Histories(
            self.items[rows],
            self.types[rows],
            self.times[rows],
            self.now[rows],
            earlier,
            {name: values[rows] for name, values in self.named.items()},
            _part(self.in_session, rows),
            self.rejected.rows(rows) if self.rejected else None,
        )

    @property
    def events(self) -> Ints:
        """`[R]` number of all events, those before the history among them."""
        return self.lengths + (self.earlier.counts if self.earlier else 0)

    def seen(self, items: Ints) -> Bools:
        """Return which of `items` `[R, C]` their user had an event on."""
        seen = found_in(items, self.items) & (items >= 0)
        return seen | self.earlier.hold(items) if self.earlier else seen

    def unwanted(self, items: Ints) -> Bools:
        """Return which of `items` `[R, C]` their user has rejected."""
        return self.rejected.items.hold(items) if self.rejected else np.zeros(items.shape, bool)

    @property
    def lengths(self) -> Ints:
        """`[R]` number of events in each history."""
        return (self.items >= 0).sum(1)

    def trimmed(self) -> "Histories":
        """Return the histories without the columns that are padding in all of them; at least one column stays."""
        start = self.items.shape[1] - max(int(self.lengths.max(initial=0)), 1)
        items, types, times = self.items[:, start:], self.types[:, start:], self.times[:, start:]
        in_session = None if self.in_session is None else self.in_session[:, start:]
        return replace(self, items=items, types=types, times=times, in_session=in_session)


@dataclass(frozen=True)
class Requests:
    """R moments at which a user was, or could have been, shown a list, and the items chosen then."""

    users: Ints
    """`[R]` user rows of the log."""
    times: Ints
    """`[R]` moment of the request; a history holds only events strictly before it."""
    offsets: Ints
    """`[R + 1]` request r's targets are `targets[offsets[r]:offsets[r + 1]]`."""
    targets: NDArray[np.int32]
    """`[T]` item indexes, distinct within a request."""
    types: NDArray[np.int8]
    """`[T]` the strongest event type on each target."""
    request_index: Ints
    """`[R]` row of `EventLog.request_ids`; -1 where the request has no id."""
    named: Named = field(default_factory=dict)
    """Context, that of the first event on a target, and attributes of the users."""
    sessions: Ints | None = None
    """`[R]` code of the session, comparable with `EventLog.sessions`; -1 for none."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, rows: Ints) -> "Requests":
        """Return some requests, in the order of `rows`."""
        counts = np.diff(self.offsets)[rows]
        targets = spans(self.offsets[rows], counts)
        return Requests(
            users=self.users[rows],
            times=self.times[rows],
            offsets=offsets_of(counts),
            targets=self.targets[targets],
            types=self.types[targets],
            request_index=self.request_index[rows],
            named={name: values[rows] for name, values in self.named.items()},
            sessions=_part(self.sessions, rows),
        )


@dataclass(frozen=True)
class EventLog:
    """The events of a dataset, sorted by user and time; impressions are kept apart, by request."""

    user_ids: list[str]
    """V ids, ascending."""
    offsets: Ints
    """`[V + 1]` user v's events are rows `offsets[v]:offsets[v + 1]`."""
    items: NDArray[np.int32]
    """`[E]` item indexes."""
    types: NDArray[np.int8]
    """`[E]` event type codes; none is an impression."""
    times: Ints
    """`[E]` microseconds or ordinals."""
    segments: NDArray[np.int8]
    """`[E]` `EARLY`, `LATE`, `VALID` or `TEST`."""
    request_index: Ints
    """`[E]` row of `request_ids`; -1 where the event has no request id."""
    impressions: NDArray[np.int32]
    """`[I]` item indexes shown and not acted on, sorted by request."""
    impression_offsets: Ints
    """`[Q + 1]` request q's impressions are `impressions[impression_offsets[q]:impression_offsets[q + 1]]`."""
    request_ids: list[str]
    """Q ids; two users may have the same one."""
    context: Mapping[str, pl.Series] = field(default_factory=dict)
    """`[E]` circumstances of each event, by the name of their feature."""
    attributes: UserAttributes = field(default_factory=UserAttributes)
    """Of the users of the dataset, those without events too."""
    sessions: Ints | None = None
    """`[E]` row of `session_ids`, -1 for none; None where the configuration names no sessions."""
    session_ids: list[str] = field(default_factory=list)
    rejections: Rejections = field(default_factory=Rejections)
    """What users do not want, also those without events."""
    opinions: NDArray[np.float64] | None = None
    """`[E]` opinion of the text of each event, from 0 to 1, NaN without one; None where the configuration names no column of them."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def newest(self) -> int:
        """When the newest event or rejection was; 0 where there is none."""
        return int(max(self.times.max(initial=0), self.rejections.times.max(initial=0)))

    @property
    def user_rows(self) -> Ints:
        """`[E]` user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))

    @cached_property
    def _by_moment(self) -> SortedRuns:
        return SortedRuns.of(self.user_rows, self.times)

    def only(self, keep: Bools) -> "EventLog":
        """Return the log of the events for which `keep` `[E]` holds; users and request ids stay the same."""
        counts = np.bincount(self.user_rows[keep], minlength=len(self.user_ids))
        return replace(
            self,
            offsets=offsets_of(counts),
            items=self.items[keep],
            types=self.types[keep],
            times=self.times[keep],
            segments=self.segments[keep],
            request_index=self.request_index[keep],
            context={name: values.filter(keep) for name, values in self.context.items()},
            sessions=_part(self.sessions, keep),
            opinions=_part(self.opinions, keep),
        )

    def in_segments(self, *segments: int) -> "EventLog":
        """Return the log of the events in `segments`."""
        return self.only(np.isin(self.segments, segments))

    def histories_of(self, requests: Requests, length: int) -> Histories:
        """Return the last `length` events before each of `requests`, with its context."""
        histories = self.histories(requests.users, requests.times, length, requests.sessions)
        return replace(histories, named=requests.named)

    def histories(self, users: Ints, before: Ints, length: int, sessions: Ints | None = None) -> Histories:
        """Return the last `length` events of `users` `[R]` strictly before the times `before` `[R]`.

        `sessions` `[R]` are those in which the requests are made; none by default.
        """
        stops, starts = self._by_moment.first_not_below(users, before), self.offsets[users]
        further = np.maximum(stops - length, starts)
        rows = stops[:, None] - np.arange(length if len(self) else 0, 0, -1)  # [R, L]
        known = rows >= starts[:, None]
        rows = np.where(known, rows, 0)
        in_session = None
        if self.sessions is not None:
            own = np.full((len(users), 1), -1) if sessions is None else sessions[:, None]
            in_session = known & (own >= 0) & (self.sessions[rows] == own)
        return Histories(
            items=np.where(known, self.items[rows], -1).astype(np.int32),
            types=np.where(known, self.types[rows], 0).astype(np.int8),
            times=np.where(known, self.times[rows], 0),
            now=before,
            earlier=ItemLists(offsets_of(further - starts), self.items[spans(starts, further - starts)]),
            in_session=in_session,
            rejected=self.rejections.at([self.user_ids[user] for user in users], before) if self.rejections else None,
        )

    def requests(self, *segments: int) -> Requests:
        """Return the requests whose events lie in `segments`, in order of time.

        Events of a user are one request when they share a request id or, without one, a timestamp.
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
                "row": rows,
            }
        )
        moment = pl.when(pl.col("key") >= 0).then(-1).otherwise(pl.col("time"))
        grouped = (
            frame.with_columns(moment=moment)
            .group_by("user", "key", "moment", "item")
            .agg(pl.col("time").min(), pl.col("type").max(), pl.col("row").min())
            .group_by("user", "key", "moment")
            .agg(pl.col("time", "row").min(), pl.struct("item", "type").sort_by("item").alias("targets"))
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
            self._named(grouped["row"].to_numpy()),
            _part(self.sessions, grouped["row"].to_numpy()),
        )

    def _named(self, rows: Ints) -> Named:
        """Return the context of the events `rows` `[R]`, and the attributes of their users."""
        context = {name: objects(values.gather(rows).to_list()) for name, values in self.context.items()}
        return context | self.attributes.of([self.user_ids[user] for user in self.user_rows[rows]])


def _part(array: NDArray[Any] | None, rows: slice | Ints | Bools) -> Any:
    """Return some rows of an array that there may not be."""
    return None if array is None else array[rows]


def type_weights(weights: Mapping[str, float]) -> Floats:
    """Return event weights, named by type, in the order of the type codes."""
    return np.array([weights[name] for name in EVENT_TYPES], np.float32)


def read_log(dataset: Dataset, config: Config, item_ids: pl.Series | None = None) -> EventLog:
    """Return the log of `dataset`, split by its own rule or that of `config`.

    Items are indexed by `item_ids`, the dataset's catalogue by default.
    """
    ids = dataset.items["item_id"] if item_ids is None else item_ids
    acted, rejections = _coded(dataset.events, ids, config.ranker)
    rule = split_rule(dataset, config)
    learned_until = config.data.learned_until
    until = None if learned_until is None else microseconds(learned_until)
    split = assign_splits(acted.lazy(), rule, config.data.valid_share, config.data.test_share, until)
    comparable, share = dataset.has_clock and rule != "leave-last", config.ranker.slice_share
    late = _after_a_moment(share, until) if comparable else _like_valid(share)
    log = _log_of(split, late, rejections)
    return replace(log, attributes=UserAttributes.read(dataset.users, config.ranker))


def split_rule(dataset: Dataset, config: Config) -> SplitRule:
    """Return the rule by which events are split."""
    return dataset.info.split if config.data.split == "dataset" else config.data.split


def build_log(
    events: pl.LazyFrame, item_ids: pl.Series, late_share: float, config: RankerConfig | None = None
) -> EventLog:
    """Return the log of events with a column `split`; the last `late_share` of train becomes `LATE`.

    `item_ids` `[N]` are the catalogue: an item's index is its row there. `config` names the columns of context.
    """
    acted, rejections = _coded(events, item_ids, config or RankerConfig())
    return _log_of(acted.lazy(), _after_a_moment(late_share), rejections)


def fit_context(log: EventLog, config: RankerConfig) -> ContextColumns:
    """Return the named columns of the configuration, fitted on the events of `log` that are for training."""
    fitted = np.isin(log.segments, (EARLY, LATE))
    of_users = log.attributes.of([log.user_ids[user] for user in np.flatnonzero(np.bincount(log.user_rows[fitted]))])
    kinds = log.attributes.table.schema
    users = {name: pl.Series(name, values.tolist(), kinds[name]) for name, values in of_users.items()}
    return fit_columns(config, {name: values.filter(fitted) for name, values in log.context.items()}, users)


def _coded(events: pl.LazyFrame, item_ids: pl.Series, config: RankerConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the events on catalogue items once, with short codes in place of strings where possible; rejections come apart.

    The columns are user_id, item, event_type, timestamp and key, and split where there is one; those of context by the
    names of their features, and session where the configuration asks for it. `key` joins user id and request id; it is
    null where there is no request id. User ids are an enumeration in ascending order, which takes 4 bytes an event.
    """
    names = events.collect_schema().names()
    sessions = pl.col(SESSION) if SESSION in names else pl.lit(None)
    items = pl.LazyFrame({"item_id": item_ids, "item": np.arange(len(item_ids), dtype=np.int32)})
    has_requests = "request_id" in names
    key = pl.concat_str("user_id", "request_id", separator=KEY_SEPARATOR) if has_requests else pl.lit(None, pl.Null)
    coded = (
        events.join(items, on="item_id", maintain_order="left")
        .select(
            pl.col("user_id").cast(pl.Categorical(pl.Categories.random())),
            "item",
            pl.col("event_type").cast(pl.Enum(LOGGED_TYPES)),
            "timestamp",
            *(["split"] if "split" in names else []),
            *(pl.col(name).alias(OF_EVENT + name) for name in event_columns(config, names)),
            *([sessions.cast(pl.String).alias("session")] if SESSION in config.context else []),
            *([opinion_of(config.opinion if config.opinion in names else None)] if config.opinion else []),
            key=key,
        )
        .collect(engine="streaming")
    )
    users = coded["user_id"].unique().cast(pl.String).drop_nulls().sort()
    coded = coded.with_columns(pl.col("user_id").cast(pl.Enum(users)))
    rejection = pl.col("event_type").is_in(REJECTIONS)
    rejected = coded.filter(rejection)
    return coded.filter(~rejection) if rejected.height else coded, rejected


def opinion_of(name: str | None) -> pl.Expr:
    """Return the opinions in the column `name` as numbers, null where there is none, or no such column."""
    column = pl.lit(None) if name is None else pl.col(name)
    return column.cast(pl.Float64, strict=False).fill_nan(None).alias(OPINION)


def _log_of(events: pl.LazyFrame, late: pl.Expr, rejections: pl.DataFrame) -> EventLog:
    """Lay out coded events with a column `split`; those of train for which `late` holds become `LATE`."""
    frame = events.with_columns(segment=_segment(late)).drop("split").collect()
    if rejections.height:
        frame, rejections = _with_requests(
            *(part.with_columns(pl.col("key").cast(pl.String)) for part in (frame, rejections))
        )
    impression = pl.col("event_type") == EVENT_TYPES[IMPRESSION]
    acted, impressions = frame.filter(~impression), frame.filter(impression)
    user_ids, users = _users_of(acted)
    keys = frame.select(pl.col("key").cast(pl.String).drop_nulls().unique().sort()).to_series()
    del frame
    acted = _with_rows(acted.with_columns(user=users), keys).sort("user", "timestamp", maintain_order=True)
    session_ids = acted["session"].drop_nulls().unique().sort() if "session" in acted.columns else None
    impressions = _with_rows(impressions, keys).filter(pl.col("request") >= 0).sort("request", maintain_order=True)
    return EventLog(
        user_ids=user_ids,
        offsets=offsets_of(np.bincount(acted["user"].to_numpy(), minlength=len(user_ids))),
        items=acted["item"].to_numpy(),
        types=acted["event_type"].to_physical().cast(pl.Int8).to_numpy(),
        times=acted["timestamp"].to_numpy(),
        segments=acted["segment"].to_numpy(),
        request_index=acted["request"].to_numpy(),
        impressions=impressions["item"].to_numpy(),
        impression_offsets=offsets_of(np.bincount(impressions["request"].to_numpy(), minlength=len(keys))),
        request_ids=keys.str.split(KEY_SEPARATOR).list.last().to_list(),
        context={name: acted[name] for name in acted.columns if name.startswith(OF_EVENT)},
        sessions=None if session_ids is None else _rows_in(session_ids, acted["session"]),
        session_ids=[] if session_ids is None else session_ids.to_list(),
        opinions=acted[OPINION].to_numpy(writable=True) if OPINION in acted.columns else None,
        rejections=Rejections.of(_with_rows(rejections, keys), acted),
    )


def _users_of(acted: pl.DataFrame) -> tuple[list[str], pl.Series]:
    """Return the ids of the users of events, ascending, and the row of each event's user among them."""
    ids = cast(pl.Enum, acted["user_id"].dtype).categories
    codes = acted["user_id"].to_physical().to_numpy()
    known = np.zeros(len(ids), bool)
    known[codes] = True
    rows = np.cumsum(known, dtype=np.int32) - 1
    return ids.filter(pl.Series(known)).to_list(), pl.Series(rows[codes])


def _with_rows(events: pl.DataFrame, keys: pl.Series) -> pl.DataFrame:
    """Return `events` with their row among the `keys` of requests in place of the key: `request`, -1 for none."""
    if not len(keys):
        return events.drop("key").with_columns(request=pl.lit(-1, pl.Int64))
    requests = pl.DataFrame({"key": keys, "request": np.arange(len(keys))})
    joined = events.join(requests, on="key", how="left", maintain_order="left").drop("key")
    return joined.with_columns(pl.col("request").fill_null(-1))


def _with_requests(frame: pl.DataFrame, rejections: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return events and rejections, each rejection with the key of the request that it teaches something about.

    That is its own, where the user also acted in it, or else that of the user's next event. If that has no key, the
    events of its moment get one.
    """
    moment = pl.concat_str("user_id", pl.lit(""), "timestamp", separator=KEY_SEPARATOR)
    is_action = pl.col("event_type") != EVENT_TYPES[IMPRESSION]
    acted = frame.filter(is_action)
    following = acted.select("user_id", "timestamp", next=pl.coalesce("key", moment)).sort("timestamp")
    own = pl.when(pl.col("key").is_in(acted["key"].drop_nulls().unique().implode())).then("key")
    rejections = rejections.sort("timestamp", maintain_order=True)
    rejections = rejections.join_asof(
        following, on="timestamp", by="user_id", strategy="forward", check_sortedness=False
    ).with_columns(key=pl.coalesce(own, "next"))
    named = moment.is_in(rejections["key"].drop_nulls().unique().implode())
    frame = frame.with_columns(key=pl.when(pl.col("key").is_null() & is_action & named).then(moment).otherwise("key"))
    return frame, rejections.drop("next")


def _rows_in(ids: pl.Series, values: pl.Series) -> Ints:
    """Return the row of each of `values` in the ascending `ids`; -1 for null."""
    return np.where(values.is_null(), -1, ids.search_sorted(values.fill_null("")).to_numpy()).astype(np.int64)


FITTED, VALIDATED = (
    (pl.col("split") == split) & (pl.col("event_type") != EVENT_TYPES[IMPRESSION]) for split in ("train", "valid")
)


def _segment(late: pl.Expr) -> pl.Expr:
    by_split = pl.col("split").replace_strict(
        dict(zip(SPLITS, (EARLY, VALID, TEST), strict=True)), return_dtype=pl.Int8
    )
    return pl.when((pl.col("split") == "train") & late).then(pl.lit(LATE, pl.Int8)).otherwise(by_split)


def _after_a_moment(share: float, learned_until: int | None = None) -> pl.Expr:
    """Hold for the last `share` of the fitted events in global time, or for those after `learned_until` where it is given."""
    if learned_until is not None:
        return pl.col("timestamp") > learned_until
    return pl.col("timestamp") >= pl.col("timestamp").filter(FITTED).quantile(1 - share, "higher")


def _like_valid(share: float) -> pl.Expr:
    """Hold for the part of train that lies to its rest as `valid` lies to train, where times of users do not compare.

    Each user's last moment if `valid` has one moment of each user; otherwise the last `share`, so that histories hold
    events that what describes them has not seen.
    """
    first, last = _moments(VALIDATED)
    return pl.when((first == last).all()).then(_last_of_user()).otherwise(_after_a_moment(share))


def _last_of_user() -> pl.Expr:
    """Hold for the last moment of each user that has an earlier one."""
    first, last = _moments(FITTED)
    return (pl.col("timestamp") == last) & (first < last)


def _moments(where: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return the first and the last moment of each user's events for which `where` holds."""
    moment = pl.when(where).then(pl.col("timestamp"))
    return moment.min().over("user_id"), moment.max().over("user_id")
