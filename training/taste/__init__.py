"""Fit the taste model: plain PyTorch, in this process; it takes seconds."""
