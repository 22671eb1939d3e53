"""Read a dataset folder."""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.schema import ITEM_COLUMNS, EVENT_COLUMNS, DatasetInfo, read_info


@dataclass(frozen=True)
class Dataset:
    folder: Path
    info: DatasetInfo
    items: pl.DataFrame
    events: pl.LazyFrame
    users: pl.DataFrame | None

    @property
    def has_clock(self) -> bool:
        return self.info.timestamp == "utc"

    def fingerprint(self) -> str:
        d = hashlib.sha256()
        for p in sorted(self.folder.glob("*.parquet")):
            d.update(p.read_bytes())
        return d.hexdigest()


def load_dataset(folder: Path, on_invalid: str = "error") -> Dataset:
    items = pl.read_parquet(folder / "items.parquet")
    items = items.with_columns([pl.lit(None, t).alias(c) for c, t in ITEM_COLUMNS.items() if c not in items.columns])
    items = items.select([*ITEM_COLUMNS, *[c for c in items.columns if c not in ITEM_COLUMNS]]).cast(ITEM_COLUMNS)
    events = pl.scan_parquet(folder / "events.parquet")
    users = pl.read_parquet(folder / "users.parquet") if (folder / "users.parquet").exists() else None
    return Dataset(folder, read_info(folder), items, events, users)
