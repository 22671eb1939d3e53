"""Run the revisions on the connection that `serving.store.migrate` passes. Alembic executes this file."""

from alembic import context

from serving.store.migrate import OPTIONS

context.configure(connection=context.config.attributes["connection"], **OPTIONS)
with context.begin_transaction():
    context.run_migrations()
