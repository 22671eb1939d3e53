"""Labelled texts: what the text heads learn from."""
