"""A head that tells entities: how it is fitted, what it finds, and the command."""

import json
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from features.data.dataset import load_dataset
from features.texts.tagged import TaggedTexts, begun, entities
from recsys.arrays import Floats
from recsys.config import Config, load_config
from recsys.text.bundle import load_text_model, save_text_model
from serving.text.tokens import Tagger, allowed, best_path, bio, marginals, windows
from tests.command_line import run
from tests.worlds import tiny_encoder, write_dataset
from training.text.crf import crf_loss
from training.text.tokens import changed, counted, fit_tokens, report_of

COLOURS = ["red", "blue", "green", "dark green"]
THINGS = ["shoe", "hat", "lamp", "desk", "ball"]
TAGS = ["O", "B-x", "I-x", "B-y", "I-y"]


def texts() -> list[dict[str, object]]:
    """Return texts that say a colour and a thing."""
    return [
        {"text": f"a {colour} {thing}", "spans": [{"start": 2, "end": 2 + len(colour), "label": "colour"}]}
        for colour, thing in product(COLOURS, THINGS)
    ]


def config(tmp_path: Path, *settings: str) -> Config:
    """Return the configuration of a head that is fitted in a second or two."""
    name = tiny_encoder(tmp_path / "encoder")
    rates = (
        "text.learning_rate=0.003",
        "text.head_learning_rate=0.02",
        "text.epochs=25",
        "text.patience=25",
        "text.batch=4",
    )
    return load_config(None, (f"encoder.name={name}", *rates, *settings))


def tagged() -> TaggedTexts:
    """Return the same texts as words."""
    words = [str(row["text"]).split() for row in texts()]
    tags = [["O", "B-colour", *["I-colour"] * (len(own) - 3), "O"] for own in words]
    return TaggedTexts(words, tags)


@pytest.mark.parametrize("crf", ["true", "false"])
def test_a_head_finds_what_it_was_fitted_on_and_is_the_same_from_its_bundle(tmp_path: Path, crf: str) -> None:
    """Entities come with their place and confidence."""
    data, settings = tagged(), config(tmp_path, f"text.crf={crf}")
    model = fit_tokens(data, data, settings, 0, lambda share, note: None)
    before = Tagger(model).found(["a dark green lamp", "", "a red hat"])
    assert [(one.label, one.text, one.start, one.end) for one in before[0]] == [("colour", "dark green", 2, 12)]
    assert before[1] == []
    assert 0.3 < before[2][0].confidence <= 1
    (tmp_path / "bundle").mkdir()
    save_text_model(tmp_path / "bundle", model, {})
    again = Tagger(load_text_model(tmp_path / "bundle", "tokens")).found(["a dark green lamp", "", "a red hat"])
    assert [[one.text for one in row] for row in again] == [[one.text for one in row] for row in before]
    assert again[0][0].confidence == pytest.approx(before[0][0].confidence, abs=1e-4)


def test_a_text_that_is_too_long_for_the_encoder_is_read_in_windows(tmp_path: Path) -> None:
    """Each word as in the window that shows more of what is around it."""
    data, settings = tagged(), config(tmp_path)
    settings = settings.model_copy(update={"text": settings.text.model_copy(update={"epochs": 1, "max_tokens": 14})})
    tagger = Tagger(fit_tokens(data, data, settings, 0, lambda share, note: None))
    words = ["a", "red", "hat"] * 10
    (found,) = tagger.log_probabilities([words])
    for start, first, last in ((0, 0, 9), (6, 9, 15), (12, 15, 21), (18, 21, 30)):
        (window,) = tagger.log_probabilities([words[start : start + 12]])
        np.testing.assert_allclose(found[first:last], window[first - start : last - start], atol=0.05)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_windows_cover_every_word_and_are_none_too_long(lengths: list[int], longest: int) -> None:
    """But for a word that is too long by itself; each begins within the one before and does not end before it."""
    found = windows(lengths, longest)
    assert found[0].start == 0 and found[-1].stop == len(lengths)
    for own in found:
        assert sum(lengths[own]) <= longest or own.stop == own.start + 1
    for one, other in pairwise(found):
        assert one.start < other.start <= one.stop <= other.stop


@given(st.lists(st.lists(st.floats(-5, 0), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_best_path_is_the_best_of_all(rows: list[list[float]]) -> None:
    """Compared with every sequence of tags that BIO allows."""
    values = np.array(rows, np.float32)
    path = best_path(values, *allowed(TAGS))
    tags = [TAGS[index] for index in path]
    assert begun(tags) == tags
    every = [
        sum(values[word, index] for word, index in enumerate(own))
        for own in product(range(5), repeat=len(rows))
        if begun([TAGS[index] for index in own]) == [TAGS[index] for index in own]
    ]
    assert sum(values[word, index] for word, index in enumerate(path)) == pytest.approx(max(every), abs=1e-5)


TEXTS = st.lists(st.lists(st.sampled_from(range(5)), max_size=3), min_size=1, max_size=3)


@given(TEXTS, st.integers(0, 1000))
def test_the_loss_of_a_random_field_is_that_of_all_sequences(texts: list[list[int]], seed: int) -> None:
    """Compared with the sum over every sequence of tags, for texts of any length, without words as well."""
    rng = np.random.default_rng(seed)
    logits, steps, first = (rng.normal(size=size).astype(np.float32) for size in ((len(texts), 4, 5), (5, 5), 5))
    expected = [
        _log_sum(logits[row, : len(own)], steps, first) - _score(logits[row], own, steps, first)
        for row, own in enumerate(texts)
        if own
    ]
    target = torch.tensor([own + [-1] * (4 - len(own)) for own in texts])
    loss = crf_loss(torch.from_numpy(logits), target, torch.from_numpy(steps), torch.from_numpy(first))
    assert float(loss) == pytest.approx(sum(expected) / max(1, sum(map(len, texts))), abs=1e-4)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_the_probability_of_a_tag_is_that_of_all_sequences_that_have_it(words: int, seed: int) -> None:
    """Each word's probabilities add up to 1."""
    rng = np.random.default_rng(seed)
    values, steps, first = (rng.normal(size=size).astype(np.float32) for size in ((words, 5), (5, 5), 5))
    found = marginals(values, steps, first)
    whole = _log_sum(values, steps, first)
    for word, tag in product(range(words), range(5)):
        having = [own for own in product(range(5), repeat=words) if own[word] == tag]
        expected = sum(np.exp(_score(values, own, steps, first) - whole) for own in having)
        assert found[word, tag] == pytest.approx(expected, abs=1e-4)


def _score(values: Floats, tags: Sequence[int], steps: Floats, first: Floats) -> float:
    """Return the score of one sequence of tags."""
    words = sum(values[word, tag] for word, tag in enumerate(tags))
    return float(words + first[tags[0]] + sum(steps[one, other] for one, other in pairwise(tags)))


def _log_sum(values: Floats, steps: Floats, first: Floats) -> float:
    """Return the logarithm of the sum over all sequences of tags."""
    scores = [_score(values, own, steps, first) for own in product(range(5), repeat=len(values))]
    return float(np.logaddexp.reduce(scores))


@given(st.lists(st.tuples(*[st.lists(st.sampled_from(TAGS), min_size=5, max_size=5)] * 2), min_size=1, max_size=6))
def test_counts_are_those_of_seqeval(rows: list[tuple[list[str], list[str]]]) -> None:
    """F1 over all types at once."""
    found, truth = [begun(own) for own, _ in rows], [begun(own) for _, own in rows]
    counts = counted(found, TaggedTexts([["w"] * 5 for _ in rows], truth))
    assert counts.micro() == pytest.approx(f1_score(truth, found, zero_division=0))


def test_a_report_has_figures_by_type_and_by_length() -> None:
    """Of texts, and of entities."""
    truth = [["B-x", "I-x", "O"], ["B-y", "O", "O"]] * 5
    found = [["B-x", "I-x", "O"], ["B-x", "O", "O"]] * 5
    report = report_of(found, TaggedTexts([["w"] * 3] * 10, truth))
    assert report.classes == ["x", "y"]
    assert report.scores[0].tolist() == [0.5, 1, pytest.approx(2 / 3), 5]
    assert report.figures["micro_f1"].value == pytest.approx(0.5)
    assert report.figures["micro_f1/entities of 2 words"].value == 1
    assert report.figures["micro_f1/texts of 1 to 9 words"].value == pytest.approx(0.5)


@given(st.integers(0, 1000))
def test_a_changed_text_keeps_its_types(seed: int) -> None:
    """Entities change places with others of their type alone."""
    words, tags = ["Anna", "Lee", "met", "IBM"], ["B-p", "I-p", "O", "B-c"]
    made, own = changed(words, tags, {"p": [["Bo"]], "c": [["A", "B", "C"]]}, np.random.default_rng(seed))
    assert len(made) == len(own)
    assert [entity.label for entity in entities(own)] == ["p", "c"]


@pytest.mark.slow
def test_the_command_trains_registers_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file of spans to what the head says of lines."""
    monkeypatch.chdir(tmp_path)
    name = tiny_encoder(tmp_path / "encoder")
    Path("labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts()))
    Path("lines.txt").write_text("a red lamp\n")
    sets = ("--set", f"encoder.name={name}", "--set", "text.epochs=1")
    code, out, err = run(capsys, "text", "train", "tokens", "labelled.jsonl", "--name", "colours", *sets)
    assert code == 0, err
    assert "micro_f1" in out
    code, out, err = run(capsys, "text", "read", "models:/colours@champion", "lines.txt", "--out", "read.csv")
    assert code == 0, err
    assert Path("read.csv").read_text().startswith("text,entities,labels,starts,ends,probabilities")
    write_dataset(Path("shop"))
    code, out, err = run(capsys, "text", "extract", "models:/colours@champion", "shop", "--out", "shop2")
    assert code == 0, err
    assert "colour" in load_dataset(Path("shop2")).items.columns or "colour: 0 items" in out
    assert "--weak brand,colour" in run(capsys, "text", "train", "tokens", "shop")[2]
    assert run(capsys, "text", "train", "tokens", "labelled.jsonl", "--valid", "labelled.jsonl")[0] == 2
    assert bio(["a"]) == ["O", "B-a", "I-a"]
