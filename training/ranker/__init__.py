"""Fit the ranker."""
