"""`scenarios`: kinds of list with all their versions; and by which of them each list was made."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table, and the columns, which stay empty for lists from before."""
    op.create_table(
        "scenarios",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("switched_on", sa.BigInteger),
        sa.Column("is_on", sa.Boolean, nullable=False),
    )
    with op.batch_alter_table("lists") as table:
        table.add_column(sa.Column("scenario", sa.Text))
        table.add_column(sa.Column("scenario_version", sa.Integer))
