"""Experiments on what is served: a share of users gets another model or kind of list, and a report says what came of it."""
