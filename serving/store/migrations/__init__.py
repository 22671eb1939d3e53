"""Alembic's folder: `env` runs the revisions in `versions`, on a connection that `serving.store.migrate` passes."""
