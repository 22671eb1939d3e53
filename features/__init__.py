"""From raw files to model inputs: import, check, split, histories and point-in-time features."""
