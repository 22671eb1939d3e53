"""`experiments`, and in `lists` the experiment and arm that a list belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table and the columns; these stay empty for lists from before."""
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("stopped", sa.BigInteger),
    )
    with op.batch_alter_table("lists") as table:
        table.add_column(sa.Column("experiment", sa.Text))
        table.add_column(sa.Column("arm", sa.Text))
        table.add_column(sa.Column("teams", sa.JSON(none_as_null=True)))
