"""Data that serving must not lose: events, item changes, lists that were returned, and API keys."""
