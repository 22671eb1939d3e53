"""The text of an item as heads for entities read it.

In: the catalogue. Out: a text for each item.
"""

import polars as pl

JOINT = "\n"
"""Between title and description."""


def entity_texts(items: pl.DataFrame) -> list[str]:
    """Return title and description of every row of `items`."""
    pairs = items.select("title", pl.col("description").fill_null("")).iter_rows()
    return [f"{title}{JOINT}{description}" for title, description in pairs]
