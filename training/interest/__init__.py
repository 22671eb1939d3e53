"""Fit the interest model."""
