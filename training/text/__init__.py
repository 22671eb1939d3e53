"""Text heads: `recsys text train`."""
