"""`lists.pool`: what explored positions were drawn from, so that other models can be judged by them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; it stays empty for lists from before."""
    with op.batch_alter_table("lists") as table:
        table.add_column(sa.Column("pool", sa.JSON(none_as_null=True)))
