"""The picture of a search: one or two panels, and what it says."""

import io

from PIL import Image

from training.pictures.canvas import DPI, WIDTH_IN
from training.pictures.search import search_picture


def test_a_search_is_drawn_with_and_without_importance() -> None:
    """Also one of a single trial, and one whose trials were stopped."""
    importance = {f"sources.source{row}": 1 / (row + 1) for row in range(14)}
    for trials, default in (([(0.2, True)], 0), ([(0.2, False), (0.25, True), (0.3, True)], 1)):
        for shares in ({}, importance):
            picture = search_picture(trials, default, "The best is better", "better by +0.05", shares)
            image = Image.open(io.BytesIO(picture.png))
            assert image.format == "PNG" and image.width == WIDTH_IN * DPI
            assert (picture.name, picture.title) == ("search", "The best is better")
