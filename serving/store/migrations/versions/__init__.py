"""The revisions of the store's tables, oldest first; a released one does not change."""
