"""RecBole atomic files: `NAME.inter`, `NAME.item`, `NAME.user`, tab separated, typed headers.

In: the folder of one dataset. Out: interactions as events, `token_seq` columns as tags.
"""

from pathlib import Path

import polars as pl

from features.importers.base import Imported, Importer, require, scan_text
from recsys.errors import RecsysError
from recsys.schema import ITEM_COLUMNS, DatasetInfo

TITLES = ("title", "movie_title", "name", "item_name", "product_name")
TAGS = ("tags", "class", "genre", "genres", "categories", "category")


class RecBoleImporter(Importer):
    """Headers carry types: `user_id:token`, `rating:float`, `class:token_seq`."""

    name = "recbole"
    description = "RecBole atomic files, the folder of one dataset"
    takes_columns = True

    def read(self, src: Path) -> Imported:
        inter = _only(src, ".inter")
        if inter is None:
            raise RecsysError(f"{src}: no .inter file; name the folder of one RecBole dataset")
        item = _only(src, ".item")
        if item is None:
            raise RecsysError(f"{src}: no .item file, so no titles; add {inter.stem}.item with item_id and title")
        user = _only(src, ".user")
        users = _plain(user, {})[0] if user else None
        return Imported(
            self._items(item), self._events(inter), users, DatasetInfo(name=inter.stem, source="RecBole atomic files")
        )

    def _items(self, path: Path) -> pl.LazyFrame:
        items, types = _plain(path, self.columns)
        names = items.collect_schema().names()
        title = self.columns.get("title") or next((name for name in TITLES if name in names), "title")
        require(items, path, ["item_id", title])
        columns = {
            name: pl.col(name).cast(pl.Float64, strict=False) if types.get(name) == "float" else pl.col(name)
            for name in names
            if name != title
        }
        columns["title"] = pl.col(title)
        tags = next((name for name in TAGS if types.get(name) == "token_seq"), None)
        if tags:
            words = columns.pop(tags).fill_null("").str.split(" ")
            columns["tags"] = words.list.eval(pl.element().filter(pl.element() != ""))
            columns.setdefault("category", columns["tags"].list.first())
        known = [name for name in ITEM_COLUMNS if name in columns]
        return items.select(**{name: columns[name] for name in [*known, *sorted(set(columns) - set(known))]})

    def _events(self, path: Path) -> pl.LazyFrame:
        events, _ = _plain(path, self.columns)
        require(events, path, ["user_id", "item_id", "timestamp"])
        names = events.collect_schema().names()
        kept = {"timestamp": pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)}
        if "rating" in names:
            kept["value"] = pl.col("rating").cast(pl.Float64)
            kept["event_type"] = self.event_of_rating(pl.col("rating").cast(pl.Float64))
        else:
            kept["event_type"] = pl.lit("click")
        return events.select("user_id", "item_id", **kept)


def _plain(path: Path, columns: dict[str, str]) -> tuple[pl.LazyFrame, dict[str, str]]:
    """Return the file with bare column names, and each column's RecBole type."""
    frame = scan_text(path, "\t")
    headers = frame.collect_schema().names()
    ours = {theirs: name for name, theirs in columns.items()}
    bare = {header: ours.get(header.partition(":")[0], header.partition(":")[0]) for header in headers}
    return frame.rename(bare), {bare[header]: header.partition(":")[2] for header in headers}


def _only(src: Path, suffix: str) -> Path | None:
    paths = sorted(src.glob(f"*{suffix}")) if src.is_dir() else []
    if len(paths) > 1:
        raise RecsysError(f"{src}: {len(paths)} files end in {suffix} ({paths[0].name}, …); keep those of one dataset")
    return paths[0] if paths else None
