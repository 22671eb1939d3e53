"""The experiment that runs now: which model a user's lists come from.

In: the store, which says what runs, and the model that serves. Out: `Assignment`s of users.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from recsys.errors import RecsysError, first_line
from serving.api.live import ModelHolder
from serving.api.repeat import Repeated
from serving.experiments.assignment import arm_of
from serving.experiments.definition import Experiment
from serving.store.store import Store

log = logging.getLogger("recsys.experiments")

LOOK_EVERY_S = 0.5
"""Seconds between two looks at which experiment runs."""


@dataclass(frozen=True)
class Part:
    """What makes the lists of an arm."""

    holder: ModelHolder
    scenario: str | None
    """In place of the one that a request names; None for that one."""


@dataclass(frozen=True)
class Assignment:
    """What a user gets in an experiment."""

    experiment: str
    arm: str | None
    """None where lists of both arms are interleaved."""
    parts: dict[str, Part]
    """By name, the arm, or both arms."""


@dataclass(frozen=True)
class _Running:
    experiment: Experiment
    parts: dict[str, Part]


class Experiments:
    """Follows which experiment of a store runs; nobody is in it before all of its models are loaded."""

    def __init__(self, store: Store, own: ModelHolder, open_model: Callable[[str, Store], ModelHolder]) -> None:
        """`own` holds the model that serves without an experiment, `open_model` loads others."""
        self._store, self._own, self._open = store, own, open_model
        self._running: _Running | None = None
        self._failed: tuple[str, str] | None = None
        self._opened: dict[str, ModelHolder] = {}
        self._repeated: Repeated | None = None

    def assign(self, user_id: str | None) -> Assignment | None:
        """Return what the user gets; None for nobody, and for a user in no arm."""
        running = self._running
        if running is None or user_id is None:
            return None
        arm = arm_of(running.experiment, user_id)
        if arm is None:
            return None
        if running.experiment.interleave:
            return Assignment(running.experiment.name, None, running.parts)
        return Assignment(running.experiment.name, arm, {arm: running.parts[arm]})

    def follow(self) -> None:
        """Start what the store says runs, and stop what runs no more."""
        stored = next((one for one in self._store.every_experiment() if one.stopped is None), None)
        if stored is None:
            self._leave()
        elif self._running is None or self._running.experiment.name != stored.name:
            self._enter(Experiment.model_validate(stored.body))

    def watch(self) -> None:
        """Follow the store in the background until `stop` is called."""
        self._repeated = Repeated(self.follow, LOOK_EVERY_S)

    def stop(self) -> None:
        """Stop following, and let go of the models of arms."""
        if self._repeated:
            self._repeated.stop()
        self._leave()

    def _enter(self, experiment: Experiment) -> None:
        try:
            parts = {name: Part(self._holder(arm.model), arm.scenario) for name, arm in experiment.arms.items()}
        except RecsysError as error:
            if self._failed != (failed := (experiment.name, first_line(error))):  # once, not every half second
                log.error("experiment %s does not run here: %s", *failed)
            self._failed = failed
            return
        self._failed, self._running = None, _Running(experiment, parts)
        log.info("experiment %s runs", experiment.name)

    def _holder(self, model: str | None) -> ModelHolder:
        if model is None:
            return self._own
        if model not in self._opened:
            holder = self._open(model, self._store)
            holder.watch()
            self._opened[model] = holder
        return self._opened[model]

    def _leave(self) -> None:
        if self._running:
            log.info("experiment %s is over", self._running.experiment.name)
        self._running, self._failed = None, None
        while self._opened:
            self._opened.popitem()[1].stop()
