"""Trees as tables predict what LightGBM predicts, but for the order of a sum."""

import lightgbm
import numpy as np
import pytest

from recsys.arrays import Floats
from recsys.models.rankers.split_codes import BLOCK, SplitCodes

INPUTS, CODES = 6, 5


def rows_of(count: int, seed: int) -> Floats:
    """Return inputs `[n, F]` of few values, so that many equal a threshold; the last one holds codes without an order."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-20, 20, (count, INPUTS)) / 7).astype(np.float32)
    rows[:, -1] = rng.integers(0, CODES, count)
    return rows


def trees(leaves: int, rounds: int, *, seed: int = 0, missing: bool = False, codes: bool = True) -> lightgbm.Booster:
    """Return trees fitted on noise and on what the inputs tell."""
    rows = rows_of(2000, seed)
    labels = (
        rows[:, 0] * (rows[:, 1] > 0) + np.isin(rows[:, -1], [1, 4]) + np.random.default_rng(seed).normal(size=2000)
    )
    if missing:
        rows[:300, 0] = np.nan
    settings = {"num_leaves": leaves, "min_data_per_group": 20, "cat_smooth": 1.0, "verbose": -1, "seed": seed}
    data = lightgbm.Dataset(rows, labels, categorical_feature=[INPUTS - 1] if codes else [])
    return lightgbm.train(settings, data, rounds)


@pytest.mark.parametrize("leaves", [2, 7, 9])
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_tables_predict_what_the_trees_predict(leaves: int, count: int) -> None:
    """For models with unequal numbers of trees, codes without an order, and values that are missing."""
    models = [trees(leaves, 20), trees(leaves, 3, seed=1), trees(leaves, 1, codes=False)]
    codes = SplitCodes.of(models)
    assert codes is not None
    rows = rows_of(count, seed=2)
    rows[::7, 2] = np.nan
    np.testing.assert_allclose(codes.predict(rows.T), [model.predict(rows) for model in models], rtol=1e-12)


def test_an_input_at_a_threshold_goes_the_way_it_goes_in_the_tree() -> None:
    """A threshold has more digits than an input."""
    model = trees(7, 20, codes=False)
    codes = SplitCodes.of([model])
    assert codes is not None
    for above in (0.0, np.inf, -np.inf):
        column = codes.thresholds[np.isfinite(codes.thresholds)]
        rows = np.repeat(np.nextafter(column, np.float32(above))[:, None] if above else column[:, None], INPUTS, axis=1)
        np.testing.assert_allclose(codes.predict(rows.T)[0], model.predict(rows), rtol=1e-12)


def test_a_tree_that_did_not_grow_gives_its_one_value() -> None:
    """A head without positives has such a tree."""
    data = lightgbm.Dataset(rows_of(50, 0), np.full(50, 3.5))
    model = lightgbm.train({"verbose": -1}, data, 1)
    codes = SplitCodes.of([model])
    assert codes is not None
    np.testing.assert_array_equal(codes.predict(rows_of(4, 1).T), [model.predict(rows_of(4, 1))])


def test_trees_that_no_table_holds_are_left_to_lightgbm() -> None:
    """They have more splits than a code has bits, or another way for what is missing."""
    assert SplitCodes.of([trees(7, 2), trees(10, 2)]) is None
    assert SplitCodes.of([trees(7, 2, missing=True)]) is None


def test_no_models_have_no_tables() -> None:
    """As of a ranker that a test stands in for."""
    assert SplitCodes.of([]) is None
