"""A simulated shop whose true tastes are known."""
