"""A database: PostgreSQL or SQLite, by a query for each table.

In: a folder with `items.sql` and `events.sql` (and `users.sql`, `queries.sql`), a `SELECT` each, and the address of the database. Out: what they
return in the contract's columns; these have the usual names, or are named with `AS` or `--column ours=theirs`.
"""

import os
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from features.importers.base import Imported
from features.importers.named import NamedOptions, NamedTablesImporter, Source
from recsys.errors import Problems, RecsysError
from recsys.schema import TABLES, read_info

DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}
BATCH = 100_000
"""Rows that are held as Python objects at once."""


class SqlOptions(NamedOptions):
    """Where the database is."""

    url: str = ""
    """Address of the database, such as `postgresql://user@host/shop` or `sqlite:///shop.db`; `DATABASE_URL` by default."""


class SqlImporter(NamedTablesImporter):
    """Runs a query for each table."""

    name = "sql"
    description = "a PostgreSQL or SQLite database, by items.sql and events.sql"
    options_model = SqlOptions
    options: SqlOptions

    def read(self, src: Path) -> Imported:
        problems = Problems()
        queries = {table: src / f"{table}.sql" for table in TABLES}
        for table in ("items", "events"):
            with problems.noted():
                if not queries[table].is_file():
                    raise RecsysError(f"{queries[table]}: no such file; write a SELECT that returns the {table}")
        problems.raise_any()
        engine = _engine(self.options.url or os.environ.get("DATABASE_URL", ""))
        sources: dict[str, Source] = {}
        for table, query in queries.items():
            with problems.noted():
                if query.is_file():
                    sources[table] = Source(str(query), _result(engine, query, self.scratch / f"{table}.parquet"))
        engine.dispose()
        return self.imported(sources, read_info(src), problems)


def _engine(address: str) -> sa.Engine:
    if not address:
        raise RecsysError("no database; pass --option url=postgresql://user@host/name, or set DATABASE_URL")
    try:
        url = sa.engine.make_url(address)
    except sa.exc.ArgumentError as error:
        raise RecsysError("url: not the address of a database; write postgresql://user@host/name") from error
    if url.drivername not in DRIVERS:
        raise RecsysError(f"url: {url.drivername} cannot be read; known: {', '.join(DRIVERS)}")
    if url.drivername == "sqlite" and not Path(url.database or "").is_file():
        raise RecsysError(f"url: {url.database}: no such file")
    return sa.create_engine(url.set(drivername=DRIVERS[url.drivername]))


def _result(engine: sa.Engine, query: Path, copy: Path) -> pl.LazyFrame:
    """Return what the query returns, by way of the file `copy`."""
    try:
        with engine.connect().execution_options(stream_results=True, max_row_buffer=BATCH) as connection:
            rows = connection.execute(sa.text(query.read_text(encoding="utf-8")))
            names = list(rows.keys())
            parts = [
                pl.DataFrame([tuple(row) for row in part], schema=names, orient="row", infer_schema_length=None)
                for part in rows.partitions(BATCH)
            ]
    except (sa.exc.SQLAlchemyError, pl.exceptions.PolarsError, TypeError) as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [repr(error)])[0]
        raise RecsysError(f"{query}: {reason}; correct the query, or the address of the database") from error
    frame = pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    strange = [name for name, kind in frame.schema.items() if kind == pl.Object]
    if strange:
        raise RecsysError(
            f"{query}: column {strange[0]!r} has values of a type of its own; cast it to text in the query"
        )
    frame.with_columns(pl.col(pl.Decimal).cast(pl.Float64), pl.col(pl.Null).cast(pl.String)).write_parquet(copy)
    return pl.scan_parquet(copy)
