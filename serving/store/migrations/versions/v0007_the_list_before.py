"""`lists.after`: the list of which a list is the next page, so that no page repeats an item."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; it stays empty for lists from before."""
    with op.batch_alter_table("lists") as table:
        table.add_column(sa.Column("after", sa.Text))
