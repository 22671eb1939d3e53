"""What an experiment compares, as its TOML file says it.

    name = "champion-or-seven"
    minimum_days = 14

    [arms.champion]
    share = 0.5

    [arms.seven]
    share = 0.5
    model = "models:/recsys/7"

In: such a file, or what the store kept of it. Out: an `Experiment`.
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, model_validator

from recsys.errors import RecsysError
from serving.fields import Part

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class ExperimentError(RecsysError):
    """An experiment that cannot be read, started or reported."""


class Arm(Part):
    """What a share of users gets; what is not named is as without the experiment."""

    share: float = Field(gt=0, le=1)
    """Of all users."""
    model: str | None = None
    """Which model makes the lists: a version, an alias or a bundle folder."""
    scenario: str | None = None
    """By which scenario lists are made, in place of the one that a request names."""


class Experiment(Part):
    """Two or more arms; the first is what the others are compared with. Users beyond all shares are in none."""

    name: Name
    arms: dict[Name, Arm] = Field(min_length=2)
    interleave: bool = False
    """Whether a list of a user in the experiment is drawn from both arms' lists in turn, instead of being that of one."""
    minimum_days: float = Field(7, gt=0)
    """Before so many days the report gives no verdict."""

    @model_validator(mode="after")
    def _possible(self) -> "Experiment":
        total = sum(arm.share for arm in self.arms.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of the arms add up to {total:g}; at most 1")
        if self.interleave and len(self.arms) != 2:
            raise ValueError(f"interleave takes two arms, not {len(self.arms)}")
        if len({(arm.model, arm.scenario) for arm in self.arms.values()}) < len(self.arms):
            raise ValueError("two arms are the same; give each a model or scenario of its own, or none to one of them")
        return self


def read_experiment(path: Path) -> Experiment:
    """Return the experiment in a TOML file.

    Raises:
        ExperimentError: the file cannot be read, or is no experiment.
    """
    try:
        return Experiment.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the experiment"
        raise ExperimentError(
            f"{path}: {error.error_count()} problems, for example {where}: {first['msg'].removeprefix('Value error, ')}; "
            "`recsys experiments start --help` shows a file"
        ) from error
