"""The tables of the store, as they are at the latest revision of `migrations/versions`.

This is what the program reads and writes. A change here needs a new revision; a test compares the two.
Times are microseconds since the epoch, or ordinals.
"""

import sqlalchemy as sa

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A 64-bit row number; SQLite numbers rows by itself only where the column is an INTEGER."""

metadata = sa.MetaData()
about = sa.Table("about", metadata, sa.Column("version", sa.Integer, primary_key=True))
"""One row, for programs from before the migrations: they refuse a store whose version is not 1."""
events = sa.Table(
    "events",
    metadata,
    sa.Column("number", Number, primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("session_id", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("position", sa.Integer),
    sa.Column("context", sa.JSON(none_as_null=True)),
    sa.Index("events_of_user", "user_id", "timestamp", "number"),
)
item_changes = sa.Table(
    "item_changes",
    metadata,
    sa.Column("number", Number, primary_key=True, autoincrement=True),
    sa.Column("item_id", sa.Text, nullable=False, index=True),
    sa.Column("body", sa.JSON(none_as_null=True)),
    sa.Column("at", sa.BigInteger),  # NULL in rows from before it was kept
    sqlite_autoincrement=True,  # a number is never used again, even after its row was deleted
)
lists = sa.Table(
    "lists",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, index=True),
    sa.Column("timestamp", sa.BigInteger, nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("items", sa.JSON, nullable=False),
    sa.Column("scores", sa.JSON, nullable=False),
    sa.Column("propensities", sa.JSON, nullable=False),
    sa.Column("pool", sa.JSON(none_as_null=True)),
    sa.Column("scenario", sa.Text),
    sa.Column("scenario_version", sa.Integer),
    sa.Column("after", sa.Text),
    sa.Column("experiment", sa.Text),
    sa.Column("arm", sa.Text),
    sa.Column("teams", sa.JSON(none_as_null=True)),
    sa.Column("query", sa.Text),
)
experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("stopped", sa.BigInteger),
)
scenarios = sa.Table(
    "scenarios",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("switched_on", sa.BigInteger),
    sa.Column("is_on", sa.Boolean, nullable=False),
)
forgotten = sa.Table(
    "forgotten",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)
users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)
