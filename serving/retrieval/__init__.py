"""Candidates: the vector index and the sources that propose items."""
