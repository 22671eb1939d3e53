"""Datasets: read the tables of a folder, validate them, divide them by time."""
