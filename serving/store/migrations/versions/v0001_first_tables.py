"""The tables as they were before the store had migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    about = op.create_table("about", sa.Column("version", sa.Integer, primary_key=True))
    op.execute(about.insert().values(version=1))
    op.create_table(
        "events",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("session_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("position", sa.Integer),
    )
    op.create_index("events_of_user", "events", ["user_id", "timestamp", "number"])
    op.create_table(
        "item_changes",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("item_id", sa.Text, nullable=False, index=True),
        sa.Column("body", sa.JSON),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "lists",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, index=True),
        sa.Column("timestamp", sa.BigInteger, nullable=False, index=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("items", sa.JSON, nullable=False),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("propensities", sa.JSON, nullable=False),
    )
    op.create_table("forgotten", sa.Column("user_id", sa.Text, primary_key=True))
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
