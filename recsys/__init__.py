"""What every part shares: the data contract, configuration, models, metrics and the bundle."""

__version__ = "0.1.0"
