"""The labelled texts of a simulated shop."""

from pathlib import Path

import numpy as np
import pytest

from features.simulator.shop import label, load_truth, simulate
from features.simulator.text import ATTRIBUTES
from features.texts.tagged import entities, read_tagged
from recsys.errors import RecsysError


def test_labels_say_the_true_attributes_and_every_item_is_in_one_file(tmp_path: Path) -> None:
    """Each attribute of an item is expressed in its description, and nothing else is labelled."""
    simulate(tmp_path / "shop", users=20, items=60, seed=1)
    labelled, others = (read_tagged(path) for path in label(tmp_path / "shop", 20))
    truth = load_truth(tmp_path / "shop")
    assert truth is not None
    order = np.random.default_rng(0).permutation(60)
    for row, tags in zip(order, labelled.tags + others.tags, strict=True):
        true = {ATTRIBUTES[index] for index in np.flatnonzero(truth.item_attributes[row])}
        assert {entity.label for entity in entities(tags)} == true
    with pytest.raises(RecsysError, match="60 items to label of 60"):
        label(tmp_path / "shop", 60)
