"""Scenarios: named kinds of list, such as `home` or `email`, that people who know no code steer lists by."""
