"""`forgotten.at`: what is older than the deletion, and still waits to be written, stays out."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; users who were forgotten before were so by now."""
    now = str(time.time_ns() // 1000)
    with op.batch_alter_table("forgotten") as table:
        table.add_column(sa.Column("at", sa.BigInteger, nullable=False, server_default=now))
    with op.batch_alter_table("forgotten") as table:
        table.alter_column("at", server_default=None)
