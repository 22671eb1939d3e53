"""Evaluate lists against baselines."""
