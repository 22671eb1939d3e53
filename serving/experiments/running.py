"""Start, stop and list experiments: the commands `recsys experiments start|stop|list`.

In: a store. Out: what it says from then on, which servers follow (`serving.api.experiments`).
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from recsys.bundle import verify
from recsys.errors import suggest
from recsys.registry import bundle_folder, resolve
from recsys.shown import table_of
from serving.experiments.definition import Experiment, ExperimentError, read_experiment
from serving.scenarios.kept import active, active_scenario
from serving.store.store import Store, StoredExperiment


def start_experiment(store: Store, file: Path) -> Experiment:
    """Start the experiment in a TOML file, whose models must be whole and whose scenarios must be on.

    Raises:
        ExperimentError: it cannot be read, its name is taken, or another runs.
        RecsysError: a model cannot be found or is damaged, or a scenario is not on.
    """
    experiment = read_experiment(file)
    scenarios = active(store)
    for arm in experiment.arms.values():
        if arm.model is not None:
            verify(bundle_folder(resolve(arm.model)))
        if arm.scenario is not None:
            active_scenario(scenarios, arm.scenario)
    body = experiment.model_dump(mode="json")
    stored = StoredExperiment(experiment.name, body, started=time.time_ns() // 1000, stopped=None)
    if not store.start_experiment(stored):
        running = next((one.name for one in store.every_experiment() if one.stopped is None), None)
        if running in (None, experiment.name):
            raise ExperimentError(f"{file}: there is an experiment {experiment.name!r} already; give it another name")
        raise ExperimentError(
            f"{file}: {running} runs, and one runs at a time; `recsys experiments stop {running}` ends it"
        )
    return experiment


def stop_experiment(store: Store, name: str) -> None:
    """Stop an experiment.

    Raises:
        ExperimentError: no such experiment runs.
    """
    if not store.stop_experiment(name, time.time_ns() // 1000):
        running = [one.name for one in store.every_experiment() if one.stopped is None]
        raise ExperimentError(f"{store}: no experiment {name!r} runs{suggest(name, running)}")


def shown_experiments(store: Store) -> Table:
    """Return a table of the arms of all experiments, the latest first."""
    table = table_of("experiments", "name", "started", "stopped", "arm", "share", "model", "scenario")
    for one in reversed(store.every_experiment()):
        span = (_day(one.started), "runs" if one.stopped is None else _day(one.stopped))
        for name, arm in Experiment.model_validate(one.body).arms.items():
            table.add_row(one.name, *span, name, f"{arm.share:.0%}", arm.model or "the server's", arm.scenario or "")
    return table


def _day(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment / 1e6, UTC):%Y-%m-%d}"
