"""`item_changes.at`: old changes that the model knows can be pruned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; it stays empty for changes from before."""
    with op.batch_alter_table("item_changes") as table:
        table.add_column(sa.Column("at", sa.BigInteger))
