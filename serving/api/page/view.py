"""What the page shows: the lists of one or two models for a form, with everything about their items.

In: a `PageForm`, and a `Service` for each model. Out: a `View`, which the template shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.events import REJECTIONS, TYPE_CODE, moment_at
from serving.api import schemas
from serving.api.live import Snapshot
from serving.api.page.form import FormError, PageForm, percent_of_purchases
from serving.api.page.words import DID, Sentence, sentences
from serving.api.refusals import UnknownItemError
from serving.api.service import Service
from serving.filters import FilterError
from serving.lookup import Lookup, PastEvent
from serving.reasons import companion_item
from serving.scenarios.definition import ScenarioError

REFUSALS = (FormError, FilterError, UnknownItemError, ScenarioError)
"""Errors of what was filled in."""
PICTURES = ("image_url", "image")
"""Columns of items that may hold the address of a picture."""
CATEGORIES = 200
"""Categories that the form suggests."""
SHOWN = 200
"""Events of a history that are shown, the latest ones."""
EXAMPLES = 6
"""Users that are offered as examples."""
SAMPLED = 200
"""Users of a model among which examples are chosen."""


@dataclass(frozen=True)
class ItemCard:
    """What is shown of an item."""

    item_id: str
    title: str
    category: str | None
    brand: str | None
    price: float | None
    picture: str | None


@dataclass(frozen=True)
class HistoryRow:
    """What is shown of an event."""

    card: ItemCard
    did: str
    time: str


@dataclass(frozen=True)
class ListRow:
    """What is shown of a position of a list."""

    card: ItemCard
    ranked: schemas.RankedItem | None = None
    """None in lists of similar items."""
    similarity: float | None = None
    reasons: Sequence[Sentence] = ()
    moved: int | None = None
    """Positions up (or, negative, down) against the other list; None where that lacks the item."""


@dataclass(frozen=True)
class Column:
    """The list of one model."""

    model: str
    rows: Sequence[ListRow]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class View:
    """All that the template shows."""

    form: PageForm
    about: schemas.ModelResponse
    own_diversity: float
    own_purchases: int
    categories: Sequence[str]
    scenarios: Sequence[str] = ()
    """The kinds of list that are on."""
    examples: Sequence[tuple[str, int]] = ()
    """Users to try, each with the number of events."""
    sees_users: bool = False
    """Whether histories are shown to this caller."""
    history: Sequence[HistoryRow] = ()
    """Latest first."""
    heading: str = ""
    newcomer: bool = False
    """Whether nothing is known of the user."""
    columns: Sequence[Column] = ()
    compared: str | None = None
    """The name of the other model, where the server has one."""
    problem: str = ""
    """Why there is no list."""

    @property
    def pictures(self) -> bool:
        """Whether any listed item has a picture."""
        return any(row.card.picture for column in self.columns for row in column.rows)

    @property
    def shared(self) -> int:
        """How many items both lists have."""
        first, other = ({row.card.item_id for row in column.rows} for column in self.columns)
        return len(first & other)


def view_of(form: PageForm, services: Sequence[Service], *, sees_users: bool, problem: str = "") -> View:
    """Return what the page shows for `form`: the first of `services` is the one that serves, a second one is compared.

    `sees_users` says whether the caller may see what users did. With a `problem` there is no list.

    Raises:
        REFUSALS: there can be no such list.
        StoreError: the store does not answer.
    """
    service, snapshot = services[0], services[0].holder.snapshot
    lookup = snapshot.lookup
    config, items = lookup.retriever.config, lookup.retriever.items
    form = form.without_defaults(config)
    view = View(
        form=form,
        about=service.about_model(),
        own_diversity=round(config.lists.diversity, 2),
        own_purchases=percent_of_purchases(config.value),
        categories=items["category"].drop_nulls().unique().sort().head(CATEGORIES).to_list(),
        scenarios=sorted(service.holder.scenarios),
        examples=_examples(service, snapshot) if sees_users else [],
        sees_users=sees_users,
        compared=services[1].holder.snapshot.name if len(services) > 1 else None,
        problem=problem,
    )
    if problem:
        return view
    past = service.known.events_of(snapshot, form.user) if form.user else []
    columns = [_column(form, service, sees_users)]
    columns += [_compared(form, other, sees_users) for other in services[1:] if form.models == "both"]
    return replace(
        view,
        heading=_heading(form, lookup),
        newcomer=form.user is not None and not past,
        history=[_history_row(lookup, event) for event in reversed(past[-SHOWN:])] if sees_users else [],
        columns=_with_moves(*columns) if len(columns) > 1 else columns,
    )


def _examples(service: Service, snapshot: Snapshot) -> list[tuple[str, int]]:
    """Return a few users of the model, from the longest history to the shortest, but no forgotten ones."""
    users = snapshot.bundle.users
    sampled = np.unique(np.linspace(0, users.height - 1, min(SAMPLED, users.height)).astype(np.int64))
    longest_first = np.argsort([-len(items) for items in users["items"].gather(sampled)], kind="stable")
    spread = np.linspace(0, len(sampled) - 1, min(EXAMPLES, len(sampled))).astype(np.int64)
    ids = users["user_id"].gather(sampled[longest_first[spread]])
    counts = {user: len(service.known.events_of(snapshot, user)) for user in ids}
    return [(user, count) for user, count in counts.items() if count]


def _heading(form: PageForm, lookup: Lookup) -> str:
    if form.item:
        return f"Similar to {_card(lookup, form.item).title}"
    if form.searches:
        return f"Found by “{form.text}”"
    whom = form.user or "anyone"
    return f"For {whom}, who typed “{form.text}”" if form.text else f"For {whom}"


def _compared(form: PageForm, service: Service, sees_users: bool) -> Column:
    """Return the list of the other model; what keeps it from making one stands in a note, and the first list stays."""
    try:
        return _column(form, service, sees_users)
    except REFUSALS as error:
        return Column(service.holder.snapshot.name, [], [str(error)])


def _column(form: PageForm, service: Service, sees_users: bool) -> Column:
    snapshot = service.holder.snapshot
    lookup = snapshot.lookup
    if form.item:
        near = service.similar(form.item, form.k)
        rows = [ListRow(_card(lookup, each.item_id), similarity=each.similarity) for each in near.items]
        return Column(near.model, rows)
    retriever = lookup.retriever
    if form.searches:
        answer = service.search(form.search_request(retriever.items))
    else:
        answer = service.recommend(form.recommend_request(retriever.items, retriever.config.value))
    past = service.known.events_of(snapshot, form.user) if form.user else []
    past = [event for event in past if event.event_type not in REJECTIONS]
    rows = [_list_row(lookup, item, past[-lookup.length :], sees_users) for item in answer.items]
    return Column(answer.model, rows, [note.replace("filters.attributes.", "") for note in answer.notes])


def _list_row(lookup: Lookup, item: schemas.RankedItem, past: Sequence[PastEvent], sees_users: bool) -> ListRow:
    did = strongest_types(past) if sees_users else {}
    rows = np.array([lookup.rows.get(event.item_id, -1) for event in past], np.int64)
    row = lookup.rows.get(item.item_id)
    companion = None if row is None or item.reasons is None else companion_item(lookup.retriever, rows, row)
    named = None if companion is None else (lookup.ids[companion], lookup.titles[companion])
    return ListRow(_card(lookup, item.item_id), item, reasons=sentences(item, did, named))


def strongest_types(past: Sequence[PastEvent]) -> dict[str, str]:
    """Return by item the strongest type of its events."""
    return {event.item_id: event.event_type for event in sorted(past, key=lambda event: TYPE_CODE[event.event_type])}


def _history_row(lookup: Lookup, event: PastEvent) -> HistoryRow:
    moment = ""
    if lookup.retriever.has_clock and event.timestamp is not None:
        moment = f"{moment_at(event.timestamp):%Y-%m-%d %H:%M}"
    return HistoryRow(_card(lookup, event.item_id), DID.get(event.event_type, event.event_type), moment)


def _card(lookup: Lookup, item_id: str) -> ItemCard:
    """Return what is shown of an item; its id as its title where the catalogue lacks it."""
    row = lookup.rows.get(item_id)
    known = {} if row is None else lookup.retriever.items.row(row, named=True)
    pictures = [known[name] for name in PICTURES if str(known.get(name)).startswith("https://")]
    return ItemCard(
        item_id=item_id,
        title=known.get("title") or item_id,
        category=known.get("category"),
        brand=known.get("brand"),
        price=known.get("price"),
        picture=pictures[0] if pictures else None,
    )


def _with_moves(first: Column, other: Column) -> list[Column]:
    """Return both lists with what moved: against the first where an item is in both."""
    before, after = ({row.card.item_id: at for at, row in enumerate(column.rows)} for column in (first, other))
    kept = [replace(row, moved=0 if row.card.item_id in after else None) for row in first.rows]
    ids = [row.card.item_id for row in other.rows]
    moved = [before[item] - at if item in before else None for at, item in enumerate(ids)]
    rows = [replace(row, moved=step) for row, step in zip(other.rows, moved, strict=True)]
    return [replace(first, rows=kept), replace(other, rows=rows)]
