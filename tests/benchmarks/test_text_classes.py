"""The benchmark of text heads: what is compared, and the streams with planted surges."""

import numpy as np
import pytest

from benchmarks.text.classes import Source, baseline, difference, drawn, mean_of, right_of_baseline, stream
from features.texts.classes import LabelledTexts
from features.texts.split import shuffled_parts


@pytest.fixture(scope="module")
def source() -> Source:
    """Return texts whose words say their class."""
    texts = [f"{('bad', 'good')[row % 2]} thing {row % 7}" for row in range(100)]
    labels: list[tuple[str, ...]] = [(str(row % 2),) for row in range(100)]
    return Source("words", LabelledTexts(texts, labels, False), shuffled_parts(100))


def test_the_baseline_learns_from_the_rows_it_is_given(source: Source) -> None:
    """And from no text of test: words that only those have are unknown to it."""
    rows = source.parts.train
    words, _ = baseline(source, rows)
    assert right_of_baseline(source, rows, source).all()
    assert set(words.get_feature_names_out()) <= {
        part
        for text in source.texts(rows)
        for part in (*text.split(), *map(" ".join, zip(text.split(), text.split()[1:], strict=False)))
    }


def test_few_texts_are_drawn_from_train_alone_as_many_of_each_class(source: Source) -> None:
    """Another seed draws others."""
    rows = drawn(source, 8, 0)
    assert set(rows) <= set(source.parts.train) and len(set(rows)) == 16
    assert source.labels[rows].mean() == 0.5
    assert set(rows) != set(drawn(source, 8, 1))


def test_a_difference_is_paired_and_its_interval_holds_it() -> None:
    """The same texts right in both make no difference."""
    right = [np.arange(100) % 4 > 0, np.arange(100) % 4 > 0]
    assert mean_of(right).value == 0.75
    same = difference(right, right[:1])
    assert (same.low, same.value, same.high) == (0, 0, 0)
    better = difference([np.ones(100, bool)], right)
    assert better.low < better.value == 0.25 < better.high


def test_a_planted_surge_lasts_three_days_and_nothing_else_changes() -> None:
    """The share of negative texts is what was planted, before and during it."""
    counts, began = stream(np.random.default_rng(0), 30, 90, 200, 0.0, 0.4)
    day = 24 // counts.hours
    before = [counts.negative[row, :start].sum() / counts.texts[row, :start].sum() for row, start in enumerate(began)]
    spans = [slice(start, start + 3 * day) for start in began]
    during = [counts.negative[row, span].sum() / counts.texts[row, span].sum() for row, span in enumerate(spans)]
    assert np.mean(np.array(during) - before) == pytest.approx(0.4, abs=0.02)
    assert min(before) > 0.05 and max(before) < 0.31
