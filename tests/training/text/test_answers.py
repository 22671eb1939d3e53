"""From questions with answers to what finds them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.texts.answers import Threads
from features.texts.split import shuffled_parts
from recsys.config import load_config
from recsys.text.bundle import load_text_model, save_text_model
from serving.api.app import create_app
from serving.store.store import Store
from serving.text.answers import KIND, Answerer, found, signs
from serving.text.faq import Faq
from serving.text.heads import TextHeads
from tests.worlds import client_of, holder_of
from training.text.answers import by_question, fit_answers, measure_answers, softmax_of_several, without_own

TOPICS = ("return a lamp", "pay by card", "open an account", "change my address", "track a parcel", "redeem a voucher")
WAYS = ("How can I {}?", "I would like to {}, what do I do?", "{} please", "Is it possible to {}?")


@pytest.fixture(scope="module")
def threads() -> Threads:
    """Return a base of two dozen threads."""
    topics = [f"{topic} {where}" for topic in TOPICS for where in ("in Bern", "online", "as a gift", "for a friend")]
    return Threads(
        [[way.format(topic) for way in WAYS] for topic in topics],
        [
            [f"To {topic}, go to our page {number} and follow it.", f"{topic}: ask us."]
            for number, topic in enumerate(topics)
        ],
    )


@pytest.fixture(scope="module")
def bundle(threads: Threads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of a text head that was fitted on it."""
    config = load_config(None, ("text.epochs=3", "text.max_tokens=32"))
    model = fit_answers(threads, shuffled_parts(len(threads)), config, 0, lambda share, note: None)
    folder = tmp_path_factory.mktemp("answers")
    save_text_model(folder, model, {})
    return folder


def test_a_question_finds_its_answer_and_another_finds_none(threads: Threads, bundle: Path) -> None:
    """Asked in a way that no text has."""
    answerer = Answerer(load_text_model(bundle, KIND))
    best = answerer.find(["May I pay by card in Bern?", "Why is the sky blue?"], k=2)
    assert {answerer.base.threads[row] for row in best.rows[0]} == {4}
    assert best.probability[0] >= answerer.threshold > best.probability[1]
    table = answerer.table(["May I pay by card in Bern?", "Why is the sky blue?"])
    assert table["answer"].is_null().to_list() == [False, True]


def test_the_report_has_what_is_found_of_each_kind(threads: Threads, bundle: Path) -> None:
    """Of the threads of `test`, whose topics are near to others."""
    report = measure_answers(load_text_model(bundle), threads, shuffled_parts(len(threads)).test)
    assert set(report.figures) == {"p@1", "mrr@10", "map", "false_refusals", "unanswerable_found"}
    assert report.figures["mrr@10"].value > 0.5
    assert "mrr@10" in report.text()


def test_a_new_answer_is_found_without_training(bundle: Path, tmp_path: Path) -> None:
    """A file that a server reads again when it changes; one that cannot be read changes nothing."""
    path = tmp_path / "faq.jsonl"
    rows = [{"questions": ["Do you deliver?", "delivery"], "answers": ["Yes, within two days."]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    faq = Faq(str(bundle), path)
    assert faq.answerer().base.answers == ["Yes, within two days."]
    path.write_text("\n".join(map(json.dumps, [*rows, {"questions": ["Is there a museum?"], "answers": ["In Bern."]}])))
    os_time(path, 1)
    found_now = faq.answerer()
    best = found_now.find(["museum?"], 1)
    assert found_now.base.answers[best.rows[0, 0]] == "In Bern."
    path.write_text("no JSON")
    os_time(path, 2)
    assert faq.answerer().base.answers == found_now.base.answers


def os_time(path: Path, later: int) -> None:
    """Let a file be changed some seconds later, whatever the clock of the file system shows."""
    now = path.stat().st_mtime
    os.utime(path, (now + later, now + later))


def test_the_api_answers_a_question(tiny: Path, bundle: Path, tmp_path: Path) -> None:
    """With the question that the answer is kept with."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with client_of(create_app(holder_of(tiny, store), store, heads=TextHeads(Faq(str(bundle))))) as client:
        body = client.post("/v1/answers", json={"question": "May I pay by card in Bern?", "k": 1}).json()
    assert body["answered"]
    assert body["answers"][0]["question"] == "How can I pay by card in Bern?"


def test_a_server_without_answers_says_so(tiny: Path, tmp_path: Path) -> None:
    """The error names the option."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with client_of(create_app(holder_of(tiny, store), store)) as client:
        answer = client.post("/v1/answers", json={"question": "May I?"})
    assert answer.status_code == 409
    assert "recsys serve --answers" in answer.json()["detail"]


@given(st.integers(0, 1000))
def test_figures_are_those_of_the_plain_definitions(seed: int) -> None:
    """P@1, MRR@10 and average precision, question by question."""
    rng = np.random.default_rng(seed)
    scores, own = rng.random((4, 15), np.float32), rng.random((4, 15)) < 0.3
    own[:, 0] = True
    figures = by_question(scores, own)
    for row in range(4):
        ranks = sorted(1 + int((scores[row] > scores[row, column]).sum()) for column in np.flatnonzero(own[row]))
        assert figures["p@1"][row] == (ranks[0] == 1)
        assert figures["mrr@10"][row] == pytest.approx(1 / ranks[0] if ranks[0] <= 10 else 0)
        assert figures["map"][row] == pytest.approx(np.mean([(at + 1) / rank for at, rank in enumerate(ranks)]))


def test_the_lead_is_over_answers_of_other_threads() -> None:
    """Two answers to one question do not make it doubtful."""
    scores = np.array([[0.9, 0.8, 0.5]], np.float32)
    assert signs(scores, np.array([0, 0, 1])) == pytest.approx(np.array([[0.9, 0.4]]))
    assert found(scores, np.array([0, 0, 1]), [0.0, 1.0, 0.0], 2).rows.tolist() == [[0, 1]]
    assert without_own(scores, np.array([[True, True, False]])).argmax() == 2


def test_the_loss_of_one_own_answer_is_the_cross_entropy() -> None:
    """Both of its halves are, then."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]])
    own = torch.tensor([[True, False, False], [False, False, True]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    assert softmax_of_several(logits, own) == pytest.approx(float(expected))
