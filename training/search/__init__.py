"""The search for a better configuration: `recsys tune`."""
