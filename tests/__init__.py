"""Tests state behaviour in their names; `worlds.py` has tiny worlds with known answers."""
