"""`lists.query`: what was typed into the search that a list answers, so that the search learns from what is chosen."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; it stays empty for lists from before."""
    with op.batch_alter_table("lists") as table:
        table.add_column(sa.Column("query", sa.Text))
