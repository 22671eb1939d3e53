"""A part of a batch job: the lists of some users, by a recommender that is loaded once.

In: a job, and the folder in which `serving.batch` has prepared it. Out: a Parquet file per part.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.context import objects
from features.histories import EventLog, Histories
from features.item_lists import ItemLists
from features.recent import RecentEvents
from features.rejections import Rejected
from recsys.arrays import Bools
from recsys.atomic import atomic_file
from recsys.errors import RecsysError
from serving.encoding import EncodedItems
from serving.filters import matching, read_conditions
from serving.lists import lists_table, reasons_table
from serving.loading import load_bundle
from serving.recommender import ItemFilter, RecommendOptions
from serving.retrieval.retriever import Retriever
from serving.scenarios.applied import Offer, options_of, rules_of
from serving.scenarios.definition import Scenario, parse

JOB = "job.json"
CATALOGUE = "catalogue.parquet"
HISTORY_COLUMNS = ("user_id", "items", "types", "times", "earlier", "rejected", "disliked")
"""Of the files of histories; the others are attributes of users."""
RECENT = "recent.npz"
"""The events since the fit."""
NEW_ITEMS = "new-items.npz"
"""Items whose texts the bundle does not know, encoded once for all processes."""


@dataclass(frozen=True)
class Job:
    """Which lists to write; a stopped run can be resumed only with the same job."""

    model: str
    bundle: str
    dataset: str
    """Fingerprint."""
    k: int
    users: str
    """SHA-256 of the ids."""
    count: int
    now: int
    """The moment of every request: just after the newest event."""
    where: tuple[str, ...] = ()
    """Conditions on the items, as `serving.filters.read_conditions` reads them."""
    explain: bool = False
    """Whether each item comes with reasons."""
    scenario: dict[str, Any] = field(default_factory=dict)
    """What `serving.scenarios.definition` reads; empty for none."""

    @classmethod
    def of(
        cls,
        model: str,
        bundle: Path,
        fingerprint: str,
        k: int,
        users: list[str],
        log: EventLog,
        *,
        where: Sequence[str] = (),
        explain: bool = False,
        scenario: Scenario | None = None,
    ) -> "Job":
        """Describe the job."""
        digest = hashlib.sha256("\n".join(users).encode()).hexdigest()
        now = log.newest + 1
        said = scenario.as_json() if scenario else {}
        return cls(model, str(bundle.resolve()), fingerprint, k, digest, len(users), now, tuple(where), explain, said)

    @classmethod
    def read(cls, work: Path) -> "Job":
        """Return the job that `write` wrote into `work`."""
        said = json.loads((work / JOB).read_text(encoding="utf-8"))
        return cls(**said | {"where": tuple(said["where"])})

    def write(self, work: Path) -> None:
        """Write the job into its folder."""
        with atomic_file(work / JOB) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")


class ListMaker:
    """Loads the bundle once and makes one part after another."""

    def __init__(self, job: Job, work: Path) -> None:
        self.job, self.work = job, work
        catalogue = pl.read_parquet(work / CATALOGUE)
        bundle = load_bundle(Path(job.bundle), catalogue, EncodedItems.load(work / NEW_ITEMS))
        recent, retriever = RecentEvents.load(work / RECENT), bundle.recommender.retriever
        if recent.new.any():
            retriever = retriever.with_recent(recent, bundle.weights)
        self.recommender = replace(bundle.recommender, retriever=retriever)
        ids = self.recommender.retriever.items["item_id"]
        self.ids = np.array(ids.to_list())
        filters = None
        if job.where:
            passing = catalogue.filter(allowed_items(catalogue, job.where))["item_id"]
            filters = ItemFilter(" ".join(job.where), ids.is_in(passing.implode()).to_numpy())
        scenario = parse(job.scenario, "scenario")
        self.options = replace(_options(scenario, self.recommender.retriever, job.k, filters), explain=job.explain)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the lists of part `row["part"]`; a failure is returned instead of raised, so that the other parts continue."""
        try:
            self.make(row["part"])
        except Exception as error:
            return {**row, "failure": (str(error).strip() or repr(error)).splitlines()[0]}
        return {**row, "failure": ""}

    def make(self, part: int) -> None:
        """Write the lists of a part."""
        lists = self.lists(pl.read_parquet(part_file(self.work / "histories", part)))
        with atomic_file(part_file(self.work / "parts", part)) as temporary:
            lists.write_parquet(temporary)

    def lists(self, stored: pl.DataFrame) -> pl.DataFrame:
        """Return the lists of the users whose histories are `stored`."""
        length = self.recommender.retriever.config.interest.max_history
        histories = stored_histories(stored, length, self.job.now)
        ranking = self.recommender.recommend(histories, self.options)
        lists = lists_table(stored["user_id"].to_list(), ranking, self.ids)
        if self.job.explain:
            lists = lists.hstack(reasons_table(self.recommender.retriever, histories, ranking, self.ids))
        return lists


def allowed_items(catalogue: pl.DataFrame, where: Sequence[str]) -> Bools:
    """Return a mask of the items that pass `where`.

    Raises:
        RecsysError: a condition cannot be read, or no item passes.
    """
    allowed = matching(catalogue, read_conditions(where, catalogue.schema, "--where "), "--where ")
    if not allowed.any():
        raise RecsysError(
            f"--where {' --where '.join(where)}: none of {len(allowed):,} items passes; relax a condition"
        )
    return allowed


def _options(scenario: Scenario, retriever: Retriever, k: int, filters: ItemFilter | None) -> RecommendOptions:
    """Return the options of lists by `scenario`, whose filters those given replace."""
    offer = Offer(retriever.items, retriever.available)
    if filters is None and scenario.filters:
        mask, _ = offer.passing(scenario.filters, "filters")
        filters = ItemFilter("scenario", mask)
    rules, _ = rules_of(scenario, offer, filters.allowed if filters else None)
    return options_of(scenario, retriever.config, k, filters, rules)


def stored_histories(stored: pl.DataFrame, length: int, now: int) -> Histories:
    """Return the histories `[R, length]` of rows with lists `items`, `types`, `times`, oldest first, and attributes of users."""
    items = np.full((stored.height, length), -1, np.int32)
    types, times = np.zeros((stored.height, length), np.int8), np.zeros((stored.height, length), np.int64)
    for row, (past, kinds, moments) in enumerate(stored.select("items", "types", "times").iter_rows()):
        if past:
            items[row, -len(past) :], types[row, -len(past) :], times[row, -len(past) :] = past, kinds, moments
    earlier, rejected, disliked = (
        ItemLists.of([row.to_numpy() for row in stored[name]]) for name in ("earlier", "rejected", "disliked")
    )
    named = {name: objects(stored[name].to_list()) for name in stored.columns if name not in HISTORY_COLUMNS}
    return Histories(
        items,
        types,
        times,
        np.full(stored.height, now, np.int64),
        earlier,
        named,
        rejected=Rejected(rejected, disliked) if len(rejected.items) else None,
    )


def part_file(folder: Path, part: int) -> Path:
    """Return the file of a part in a folder of them."""
    return folder / f"part-{part:05d}.parquet"
