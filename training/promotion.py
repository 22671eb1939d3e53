"""Which version serves: an alias moves to a version that passes a gate, goes back, and every change is kept.

In: names of versions. Out: the aliases of the registered model, and its tags `change.00001` and so on, one a change, as JSON.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import numpy as np

from recsys import names
from recsys.errors import RecsysError, first_line
from recsys.progress import stage
from recsys.registry import bundle_folder, has_store, mlflow_client
from serving.first_list import require_first_list
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from training.evaluation.compare import MAIN, Comparison, Evaluated, compare
from training.run_info import RunInfo
from training.tracking import aliases_of, author, find, read_requests, version_of

LISTS_TIMED = 50
MIB, MS = "MiB", "ms a list"
"""Figures of a version that can have a budget: the size of its bundle, and the median time of a list of 20, alone, on this machine."""
CHANGE = "change."


@dataclass(frozen=True)
class Change:
    """An alias that moved."""

    alias: str
    before: str | None
    """The version before; None where the alias is new."""
    after: str
    at: str
    """ISO time, UTC."""
    by: str
    why: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """What was found of a version before it is promoted."""

    run: RunInfo
    before: RunInfo | None
    """That of the version that the alias names now; None where it names none, or another run cannot be compared."""
    comparison: Comparison | None
    """Against `before`."""
    figures: dict[str, float]
    problems: list[str]


def check(run: RunInfo, alias: str, budgets: dict[str, float] | None = None) -> Gate:
    """Return whether the version of `run` may take the place of the one that `alias` names.

    The bundle is verified, loaded, and makes lists; on the same requests it must not be worse than the present version, overall or
    in a segment, beyond the interval of the difference. `budgets` are the most that a figure, such as `MS`, may be.

    Raises:
        RecsysError: the run has no version.
    """
    model, problems, figures = version_of(run), [], {}
    try:
        figures = _try_out(model)
        problems = [
            f"{name} is {figures[name]:.4g}, more than the {most:g} allowed"
            for name, most in (budgets or {}).items()
            if figures[name] > most
        ]
    except Exception as error:  # whatever is wrong with the bundle, it must not serve
        problems.append(f"it does not work: {first_line(error)}")
    with mlflow_client() as client:
        present = aliases_of(client).get(alias)
    if present is None or present in run.versions:
        return Gate(run, None, None, figures, problems)
    try:
        before = find(present)
        [comparison] = compare(Evaluated(before, read_requests(before)), [Evaluated(run, read_requests(run))])
    except RecsysError as error:
        return Gate(run, None, None, figures, [*problems, f"it cannot be compared: {error}"])
    difference = comparison.metrics[MAIN].interval
    figures |= {f"{MAIN} above version {present}": difference.value}
    worse = [f"it is worse than version {present} in {part}" for part in comparison.worse]
    return Gate(run, before, comparison, figures, problems + worse)


def promote(gate: Gate, alias: str, why: str) -> Change:
    """Let `alias` name the version of `gate`, and keep the change with its figures."""
    return _move(alias, gate.run.versions[-1], why, gate.figures)


def roll_back(alias: str) -> Change:
    """Let `alias` name the version before its last change.

    Raises:
        RecsysError: no change is known, or the alias was moved by other means since.
    """
    changes = [change for change in history() if change.alias == alias]
    with mlflow_client() as client:
        present = aliases_of(client).get(alias)
    if not changes or changes[-1].before is None or changes[-1].after != present:
        raise RecsysError(
            f"--alias {alias}: no change is known that led to version {present}; `recsys models promote VERSION` names another"
        )
    return _move(alias, changes[-1].before, f"back from version {present}", {})


def history() -> list[Change]:
    """Return every change of an alias by these functions, oldest first."""
    if not has_store():
        return []
    with mlflow_client() as client:
        registered = client.search_registered_models(f"name = '{names.model_name()}'")
    tags = registered[0].tags if registered else {}
    return [Change(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(CHANGE)]


def _move(alias: str, version: str, why: str, figures: dict[str, float]) -> Change:
    number = len(history()) + 1
    with mlflow_client() as client:
        before = aliases_of(client).get(alias)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(alias, before, version, now, author(), why, figures)
        client.set_registered_model_tag(names.model_name(), f"{CHANGE}{number:05}", json.dumps(asdict(change)))
        client.set_registered_model_alias(names.model_name(), alias, version)
    return change


def _try_out(name: str) -> dict[str, float]:
    """Return the size of the bundle of the version `name` and how long its lists take.

    Raises:
        RecsysError: it is damaged, or cannot rank.
    """
    with stage(f"trying out {name}"):
        folder = bundle_folder(name)
        lookup = Lookup(load_bundle(folder))  # which verifies it
        require_first_list(name, lookup)
        taken = []
        for user in list(lookup.users)[:LISTS_TIMED]:
            start = time.perf_counter()
            lookup.recommender.recommend(lookup.histories([(user, None)]), RecommendOptions(20))
            taken.append(1000 * (time.perf_counter() - start))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {MIB: size / 2**20, MS: float(np.median(taken)) if taken else 0.0}
