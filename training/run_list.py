"""The trainings, from the tables of MLflow's database where it is one that can be read, else through MLflow.

In: MLflow's store. Out: `RunInfo`s. The tables are those of the release of MLflow that this one asks for; a test holds what is read
from them against what MLflow says.
"""

import os
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from recsys import names
from training.run_info import RunInfo

KINDS = ("sqlite:", "postgresql:", "mysql")


def runs(limit: int) -> list[RunInfo]:
    """Return the trainings, newest first, at most `limit` of them.

    Raises:
        RecsysError: MLflow's store is unreachable.
    """
    if names.OWN_STORE and not names.OWN_DATABASE.exists():
        return []
    address = f"sqlite:///{names.OWN_DATABASE}" if names.OWN_STORE else os.environ["MLFLOW_TRACKING_URI"]
    if address.startswith(KINDS):
        with suppress(SQLAlchemyError, OSError):  # MLflow says what is wrong with its store
            return read_tables(address, limit)
    from training import tracking

    return tracking.runs(limit)


def read_tables(address: str, limit: int) -> list[RunInfo]:
    """Return the same from the database at `address`."""
    engine = sa.create_engine(address)
    with engine.connect() as store:
        found = store.execute(
            sa.text(
                "SELECT run_uuid, r.name, start_time, status FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
                "WHERE e.name = :name AND r.lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid LIMIT :limit"
            ),
            {"name": names.experiment(), "limit": limit},
        ).all()
        ids = [row[0] for row in found]
        metrics, parameters, tags = (_by_run(store, table, ids) for table in ("latest_metrics", "params", "tags"))
        versions: dict[str, list[str]] = {}
        for run, version in store.execute(
            sa.text(
                "SELECT run_id, version FROM model_versions WHERE name = :name AND current_stage <> 'Deleted_Internal' ORDER BY version"
            ),
            {"name": names.model_name()},
        ):
            versions.setdefault(run, []).append(str(version))
        aliases = store.execute(
            sa.text("SELECT alias, version FROM registered_model_aliases WHERE name = :name ORDER BY alias"),
            {"name": names.model_name()},
        )
        version_of = {alias: str(version) for alias, version in aliases}
    engine.dispose()
    return [
        RunInfo.of(tuple(row), parameters[row[0]], tags[row[0]], metrics[row[0]], versions.get(row[0], []), version_of)
        for row in found
    ]


def _by_run(store: sa.Connection, table: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return the values by key of each run."""
    values: dict[str, dict[str, Any]] = {run: {} for run in ids}
    columns = sa.table(table, *(sa.column(name) for name in ("run_uuid", "key", "value")))
    for start in range(0, len(ids), 500):
        wanted = sa.select(columns).where(columns.c.run_uuid.in_(ids[start : start + 500])).order_by(columns.c.key)
        for run, key, value in store.execute(wanted):
            values[run][key] = value
    return values
