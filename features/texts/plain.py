"""Read texts without labels: a table with the column `text`, or a text per line."""

from pathlib import Path

import polars as pl

from features.data.formats import check_utf8, kind_of, scan
from recsys.errors import RecsysError


def read_texts(path: Path) -> pl.DataFrame:
    """Return a table with the column `text`, and what other columns the file has.

    Raises:
        RecsysError: the file is missing, unreadable or empty, or has no such column.
    """
    if not path.is_file():
        raise RecsysError(f"{path}: no such file; give a table with the column text, or a text per line")
    if not kind_of(path):
        check_utf8(path)
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        table = pl.DataFrame({"text": [line for line in lines if line]}, schema={"text": pl.String})
    else:
        table = scan(path).collect()
        if "text" not in table.columns:
            raise RecsysError(
                f"{path}: no column 'text' among {', '.join(table.columns)}; rename the one with the texts"
            )
        table = table.with_columns(pl.col("text").cast(pl.String).fill_null(""))
    if not table.height:
        raise RecsysError(f"{path}: holds no text; write one per line")
    return table
