"""What every part shares: the data contract, configuration, models, metrics and the bundle; and the functions for notebooks."""

from recsys.packages import import_own

__version__ = "0.1.0"

import_own()

from recsys.python import evaluate, load, train  # noqa: E402

__all__ = ["evaluate", "load", "train"]
