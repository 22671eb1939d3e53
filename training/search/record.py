"""The trials of a search, a file each in its folder: what `--resume` finds, and what the report is made of.

In: what came of trials. Out: `Trial`s, in the order of their starts.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.atomic import atomic_file

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"


@dataclass(frozen=True)
class Trial:
    """A trial that ended."""

    id: str
    started: float
    """Seconds since 1970."""
    seconds: float
    state: str
    """`finished`, `stopped early` or `failed`."""
    parameters: dict[str, Any]
    """By key of the configuration."""
    metric: float | None = None
    """ndcg@10 on `valid`; of a trial that was stopped, the best until then."""
    epochs: tuple[float, ...] = ()
    """The best ndcg@10 until each epoch of the interest model."""
    error: str = ""

    @property
    def finished(self) -> bool:
        """Whether it was measured to its end."""
        return self.state == FINISHED

    @property
    def words(self) -> str:
        """Its parameters in a line."""
        return ", ".join(f"{key}={short(value)}" for key, value in self.parameters.items())


class Records:
    """The trials in the folder of a search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trials"
        self.work = folder / "work"
        """Where trials keep what is of no use after them."""

    def add(self, trial: Trial) -> None:
        """Keep a trial, and drop what it worked with."""
        shutil.rmtree(self.work / trial.id, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / f"{trial.id}.json") as temporary:
            temporary.write_text(json.dumps(asdict(trial)), encoding="utf-8")

    def trials(self) -> list[Trial]:
        """Return the trials that are kept, in the order of their starts."""
        bodies = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("*.json")]
        found = [Trial(**body | {"epochs": tuple(body["epochs"])}) for body in bodies]
        return sorted(found, key=lambda trial: trial.started)

    def forget_failed(self) -> None:
        """Drop the trials that failed, and what broken-off ones left behind."""
        for trial in self.trials():
            if trial.state == FAILED:
                (self.folder / f"{trial.id}.json").unlink()
        shutil.rmtree(self.work, ignore_errors=True)

    def keep_values(self, trial_id: str, values: NDArray[np.float64]) -> None:
        """Keep what a trial measured by request `[R]`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / f"{trial_id}.npy") as temporary:
            np.save(temporary, values)

    def values(self, trial: Trial) -> NDArray[np.float64]:
        """Return what `keep_values` kept of a trial."""
        values: NDArray[np.float64] = np.load(self.folder / f"{trial.id}.npy", allow_pickle=False)
        return values


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the best of the trials that finished; the first of equal ones."""
    return max((trial for trial in trials if trial.finished), key=lambda trial: trial.metric or 0.0)


def short(value: Any) -> str:
    """Return a parameter's value with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
