"""Users for items: who of the users of a dataset, or of a bundle, cares most for an item.

In: a recommender, the histories of users, items. Out: a table with a row per item and user, the best users of each item
first. `recsys audience` goes through all users of a dataset; the API takes those whose histories are nearest to an item.

Shapes: U users, n items, N catalogue.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from features.histories import Histories, read_log
from recsys.atomic import atomic_file
from recsys.bundle import read_config, verify
from recsys.errors import RecsysError, suggest
from recsys.progress import stage
from recsys.registry import bundle_folder, resolve
from serving.batch import histories_of
from serving.loading import catalogue_ids, load_bundle, read_dataset
from serving.lookup import Lookup
from serving.recommender import Recommender
from serving.retrieval.sources.base import HISTORY_DECAY

By = Literal["p_click", "p_purchase", "interest"]

BLOCK_USERS = 1024
"""Users that are worked on at once."""
SHORTLIST = 2000
"""Users whom the API ranks."""
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".parquet": pl.DataFrame.write_parquet,
    ".csv": pl.DataFrame.write_csv,
    ".jsonl": pl.DataFrame.write_ndjson,
}
"""What writes a file of each name."""


def write_audience(folder: Path, model: str, item_ids: Sequence[str], k: int, by: By, out: Path) -> pl.DataFrame:
    """Write the k users of the dataset in `folder` who care most for each of the items into the file `out`; return the rows.

    Users without any event are left out: of them nothing is known.

    Raises:
        RecsysError: the model, the dataset or an item is not known, or `out` has none of the endings of `WRITERS`.
    """
    if out.suffix not in WRITERS:
        raise RecsysError(f"--out {out}: name a file that ends in {', '.join(WRITERS)}, for example audience.csv")
    bundle = bundle_folder(resolve(model))
    manifest, config = verify(bundle), read_config(bundle)
    dataset = read_dataset(folder, config, manifest["dataset_fingerprint"], model)
    log = read_log(dataset, config, catalogue_ids(bundle, dataset.items))
    recommender = load_bundle(bundle, dataset.items).recommender
    items = _rows(item_ids, dataset.items["item_id"], recommender.retriever.items["item_id"])
    now = log.newest + 1
    with stage(f"ranking {len(log.user_ids):,} users") as update:

        def blocks() -> Iterator[tuple[list[str], Histories]]:
            for start in range(0, len(log.user_ids), BLOCK_USERS):
                rows = list(range(start, min(start + BLOCK_USERS, len(log.user_ids))))
                yield [log.user_ids[row] for row in rows], histories_of(recommender, log, rows, now)
                update((rows[-1] + 1) / len(log.user_ids), f"{rows[-1] + 1:,} of {len(log.user_ids):,} users")

        table = audience(recommender, blocks(), items, k, by)
    with atomic_file(out) as temporary:
        WRITERS[out.suffix](table, temporary)
    return table


def audience(
    recommender: Recommender, users: Iterator[tuple[list[str], Histories]], items: Sequence[int], k: int, by: By
) -> pl.DataFrame:
    """Return the k `users`, given as ids and histories, who care most for each of the `items` and did not reject it.

    Returns:
        item_id, rank (from 1), user_id, interest, p_click, p_purchase, and whether the user has `seen` the item.
    """
    best = pl.DataFrame()
    for ids, histories in users:
        rows = _interests(recommender, ids, histories, items)
        best = pl.concat([best, rows]) if best.width else rows
        best = (
            best.sort("order", by, "user_id", descending=[False, True, False])
            .group_by("order", maintain_order=True)
            .head(k)
        )
    if not best.width:
        best = _interests(recommender, [], None, items)
    ranked = best.with_columns(rank=pl.int_range(1, pl.len() + 1).over("order"))
    return ranked.select("item_id", "rank", "user_id", "interest", "p_click", "p_purchase", "seen")


def nearest_users(lookup: Lookup, item: int, count: int) -> list[str]:
    """Return the `count` users of the bundle whose histories are nearest to `item`, the latest events counting most."""
    users = lookup.bundle.users.select("user_id", pl.col("items").cast(pl.List(pl.Int32)))
    users = users.filter(pl.col("items").list.len() > 0)
    if not users.height:
        return []
    lengths = users["items"].list.len().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    age = np.repeat(starts + lengths, lengths) - np.arange(lengths.sum()) - 1  # 0 for the latest event
    vectors = lookup.retriever.vectors
    similarity = (vectors @ vectors[item])[users["items"].explode().to_numpy()]
    nearness = np.add.reduceat(similarity * HISTORY_DECAY ** age.astype(np.float32), starts)
    nearest = np.argsort(-nearness, kind="stable")[:count]
    return users["user_id"][nearest].to_list()


def _interests(
    recommender: Recommender, users: list[str], histories: Histories | None, items: Sequence[int]
) -> pl.DataFrame:
    """Return a row for each of the `users` and `items`, which have the numbers `order`."""
    ids = recommender.retriever.items["item_id"]
    schema = {
        "order": pl.Int64,
        "item_id": pl.String,
        "user_id": pl.String,
        "interest": pl.Float32,
        "p_click": pl.Float32,
    }
    schema |= {"p_purchase": pl.Float32, "seen": pl.Boolean}
    if histories is None:
        return pl.DataFrame(schema=schema)
    candidates = np.tile(np.array(items, np.int64), (len(users), 1))  # [U, n]
    ranking = recommender.rank(histories, candidates)
    number = {item: order for order, item in enumerate(items)}
    ranked = ranking.items.ravel()
    columns = {
        "order": [number[item] for item in ranked.tolist()],
        "item_id": ids[ranked],
        "user_id": [user for user in users for _ in items],
        "interest": ranking.interest.ravel(),
        "p_click": ranking.p_click.ravel(),
        "p_purchase": ranking.p_purchase.ravel(),
        "seen": histories.seen(ranking.items).ravel(),
    }
    return pl.DataFrame(columns, schema=schema).filter(~histories.unwanted(ranking.items).ravel())


def _rows(item_ids: Sequence[str], offered: pl.Series, ids: pl.Series) -> list[int]:
    """Return the rows of the items among the `ids` of the catalogue.

    Raises:
        RecsysError: some of them are not `offered`.
    """
    unknown = sorted(set(item_ids) - set(offered))
    if unknown:
        hint = suggest(unknown[0], offered.head(1000).to_list())
        raise RecsysError(
            f"ITEM: {len(unknown)} of {len(item_ids)} are no items of the dataset, for example {unknown[0]!r}{hint}"
        )
    rows = {item: row for row, item in enumerate(ids.to_list())}
    return [rows[item] for item in dict.fromkeys(item_ids)]
