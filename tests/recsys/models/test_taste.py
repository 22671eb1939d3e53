"""The taste model against plain formulas."""

import math

import numpy as np
import pytest
import torch

from recsys.models.taste import KINDS, PRIOR, SegmentVectors, TasteModel

WIDTH, TASTE_WIDTH = 6, 3
KINDS_OF_ITEMS = [[0, 1, 2, 2, 3, 3, 4], [0, 4], [0, 3, 4]]
"""The second item has no clauses, tags or brand."""


def texts_of(seed: int = 0) -> SegmentVectors:
    """Return the segments of three items; the last one shares its first segment with the item before."""
    rng = np.random.default_rng(seed)
    kinds = np.concatenate(KINDS_OF_ITEMS)
    vectors = rng.normal(size=(len(kinds), WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.arange(len(kinds))
    rows[9] = rows[7]
    return SegmentVectors(vectors, rows, kinds, np.cumsum([0, *map(len, KINDS_OF_ITEMS)]))


@pytest.fixture
def model() -> TasteModel:
    """Return a model whose every number is random, so that no term is neutral."""
    torch.manual_seed(0)
    model = TasteModel(WIDTH, TASTE_WIDTH).eval()
    for parameter in [*model.parameters(), model.centre]:
        torch.nn.init.normal_(parameter, std=0.7)
    return model.requires_grad_(False)


def plain_item(model: TasteModel, texts: SegmentVectors, item: int) -> np.ndarray:
    """Return one item's taste vector, segment by segment."""
    total = np.zeros(TASTE_WIDTH)
    for pair in range(texts.offsets[item], texts.offsets[item + 1]):
        centred = texts.vectors[texts.rows[pair]] - model.centre.numpy()
        weight = math.exp(model.weigh.weight.numpy()[0] @ centred + model.kind[texts.kinds[pair]].item())
        total += weight * (model.projection.weight.numpy() @ centred)
    return total / np.linalg.norm(total)


def test_an_items_vector_is_the_weighted_mean_of_its_projected_segments(model: TasteModel) -> None:
    """As the plain formula has it, in any order of items and for one twice; all are unit vectors."""
    texts, items = texts_of(), np.array([2, 0, 1, 1])
    vectors = model.item_vectors(texts, items).numpy()
    np.testing.assert_allclose(vectors, [plain_item(model, texts, item) for item in items], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_items_have_no_vectors(model: TasteModel) -> None:
    """An empty catalogue is no error."""
    assert model.item_vectors(texts_of(), np.empty(0, np.int64)).shape == (0, TASTE_WIDTH)


def test_a_model_starts_from_the_directions_in_which_segments_differ_most() -> None:
    """Fewer segments than numbers leave the others as they are."""
    vectors = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 0.5, 0, 0], [0, -0.5, 0, 0]]) + 3
    model = TasteModel(4, 2)
    model.start_from(vectors)
    torch.testing.assert_close(model.centre, torch.full((4,), 3.0))
    torch.testing.assert_close(model.projection.weight.abs(), torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0]]))
    TasteModel(4, 3).start_from(vectors[:1])


def test_relevance_is_attention_to_the_history_by_similarity_and_category(model: TasteModel) -> None:
    """The plain formula, candidate by candidate and event by event."""
    requests, candidates, length = 2, 3, 4
    similarity = torch.randn(requests, candidates, length)
    same = torch.rand(requests, candidates, length) < 0.5
    known = torch.tensor([[False, False, True, True], [True, True, True, True]])
    weights, bias = model.event_weights(known), torch.randn(candidates)
    scores = model.relevance(similarity, same, weights, bias)
    decay = 1 / (1 + math.exp(-model.decay.item()))
    for row in range(requests):
        for column in range(candidates):
            heard, said = [], []
            for event in range(length):
                alike, own = similarity[row, column, event].item(), bool(same[row, column, event])
                weight = decay ** (length - 1 - event) if known[row, event] else 0.0
                heard.append(weight * math.exp(model.focus.item() * alike + model.elsewhere.item() * (not own)))
                said.append(math.exp(model.scale.item()) * alike + model.same_category.item() * own)
            total = sum(one * other for one, other in zip(heard, said, strict=True)) / (sum(heard) + PRIOR)
            assert scores[row, column].item() == pytest.approx(total + bias[column].item(), abs=1e-4)


def test_without_a_known_event_only_the_bias_speaks(model: TasteModel) -> None:
    """Padding has no say, whatever stands there."""
    weights, bias = model.event_weights(torch.zeros(2, 4, dtype=torch.bool)), torch.randn(2, 3)
    scores = model.relevance(torch.randn(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool), weights, bias)
    torch.testing.assert_close(scores, bias)


def test_an_item_without_events_is_worth_what_was_learnt_of_such_items(model: TasteModel) -> None:
    """It is not at the bottom of a scale of counts."""
    counts = torch.tensor([0.0, 1.0, 9.0])
    bias = model.bias(counts, known=counts > 0)
    popularity = model.popularity.item()
    expected = torch.tensor([model.unknown.item(), popularity * math.log(2), popularity * math.log(10)])
    torch.testing.assert_close(bias, expected)


def test_every_kind_of_segment_has_a_weight(model: TasteModel) -> None:
    """`features.segments` numbers the kinds."""
    assert len(model.kind) == len(KINDS) == 5
