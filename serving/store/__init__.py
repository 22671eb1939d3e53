"""What serving must not lose: events, item changes, answered lists, keys."""
