"""Fit the interest model and the ranker, evaluate them, and log and register what was fitted."""
