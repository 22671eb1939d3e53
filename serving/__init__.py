"""Retrieve, rank and re-rank: the one path behind evaluation, batch lists and the API."""
