"""`events.context`: the circumstances of an event; `users`: the attributes of users."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add both; events from before have no context."""
    with op.batch_alter_table("events") as table:
        table.add_column(sa.Column("context", sa.JSON(none_as_null=True)))
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
