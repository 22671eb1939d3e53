"""A training as MLflow knows it; this module does without MLflow, whose import takes longer than listing hundreds of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

UPDATED_FROM = "updated_from"
"""The tag that names the models that an update comes from, the nearest first."""
UPDATE, FULL_FIT = "update", "full fit"
"""The tag that says what came of an update, and its value where a fit from nothing took its place."""


@dataclass(frozen=True)
class RunInfo:
    """A training that ended, as MLflow knows it."""

    id: str
    name: str
    started: datetime
    status: str
    dataset: str
    fingerprint: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    versions: tuple[str, ...]
    """Of the registered model."""
    aliases: tuple[str, ...]
    """Of these versions."""
    updated_from: tuple[str, ...] = ()
    """The models that it comes from by updates, the nearest first; none for a fit from nothing."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """What it ran on, as `training.machine.machine` says it."""

    @property
    def label(self) -> str:
        """How messages call it: `version 3 (champion)`, or the beginning of its id."""
        if not self.versions:
            return f"run {self.id[:8]}"
        return f"version {self.versions[-1]}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")

    @classmethod
    def of(
        cls,
        about: tuple[str, str, int, str],
        parameters: Mapping[str, str],
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        versions: Sequence[str],
        aliases: Mapping[str, str],
    ) -> "RunInfo":
        """Return what MLflow keeps: `about` has id, name, start (milliseconds) and status; `aliases` the version of each."""
        run_id, name, start, status = about
        return cls(
            id=run_id,
            name=name,
            started=datetime.fromtimestamp(start / 1000, UTC),
            status=status.lower(),
            dataset=parameters.get("dataset", ""),
            fingerprint=tags.get("dataset.fingerprint", ""),
            parameters={"fit_on": tags.get("fit_on", ""), **parameters},
            metrics={key.removeprefix("test_").replace("_at_", "@"): value for key, value in metrics.items()},
            versions=tuple(versions),
            aliases=tuple(alias for alias, version in aliases.items() if version in versions),
            updated_from=_chain(tags),
            machine={name: value for name, value in tags.items() if name.startswith("machine.")},
        )


def _chain(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the models that a run comes from, by its tags."""
    chain = tags.get(UPDATED_FROM, "")
    return tuple(chain.split(", ")) if chain and tags.get(UPDATE) != FULL_FIT else ()
