"""What every part shares: the data contract, configuration, models, metrics and the bundle."""

from recsys.packages import import_own

__version__ = "0.1.0"

import_own()
