"""The text encoder: what is cached equals what is computed; altered weights are refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel

from features.tokens import item_texts, item_tokens
from recsys.config import EncoderConfig
from recsys.errors import RecsysError
from recsys.models import encoder as encoder_module
from recsys.models.encoder import FrozenPrefix, TextEncoder, Tokens, encode_all, load_encoder, tokenize
from recsys.models.encoder_int8 import Int8Encoder, int8_encoder
from tests.worlds import catalogue, tiny_encoder, words


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    """Return the configuration of a tiny encoder."""
    return EncoderConfig(name=tiny_encoder(tmp_path_factory.mktemp("encoder")), trainable_layers=1, precision="fp32")


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30], ids=["computed at each call", "kept"])
def test_encoding_through_the_frozen_prefix_equals_the_plain_model(tiny: EncoderConfig, limit_bytes: int) -> None:
    """Split, cached and batched by length, the vectors are those of the whole model with mean pooling."""
    text_encoder, tokenizer = load_encoder(tiny)
    texts = words(20)
    prefix = FrozenPrefix(text_encoder, tokenize(texts, tokenizer, 64), "fp32", limit_bytes)
    plain = AutoModel.from_pretrained(tiny.name).eval()
    with torch.no_grad():
        for row, vector in enumerate(encode_all(text_encoder, prefix)):
            hidden = plain(**tokenizer(texts[row], return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(vector, hidden.mean(0), atol=1e-5, rtol=1e-4)


def test_only_the_top_layers_have_gradients(tiny: EncoderConfig) -> None:
    """Frozen layers stay as they were loaded."""
    text_encoder, tokenizer = load_encoder(tiny)
    ids, mask = tokenize(words(4), tokenizer, 64).padded(np.arange(4))
    text_encoder(ids, mask).sum().backward()
    learned = {name for name, parameter in text_encoder.named_parameters() if parameter.grad is not None}
    assert learned and all("layer.2." in name for name in learned)


def test_a_text_keeps_its_vector_when_tuning_starts(tiny: EncoderConfig) -> None:
    """Gradients are computed by another attention on a CPU, padded texts included."""
    text_encoder, tokenizer = load_encoder(tiny)
    ids, mask = tokenize(["a red shoe", "shoe"], tokenizer, 64).padded(np.arange(2))
    before = text_encoder(ids, mask)
    text_encoder.start_tuning()
    torch.testing.assert_close(text_encoder(ids, mask), before)
    assert text_encoder.trainable


def test_texts_join_title_tags_brand_category_and_description() -> None:
    """Absent and empty parts leave no separators behind."""
    items = catalogue(
        ["Lamp", "Chair"], tags=[["red", "small"], []], brand=["Acme", None], description=["Gives light.", "  "]
    )
    assert item_texts(items, "[SEP]", 64) == ["Lamp [SEP] red small Acme [SEP] Gives light.", "Chair"]


def test_long_descriptions_are_cut_to_the_configured_tokens(tiny: EncoderConfig) -> None:
    """200 KB of text cost no more than `max_tokens`."""
    _, tokenizer = load_encoder(tiny)
    items = catalogue(["Lamp"], description=["light " * 40_000])
    assert tokenize(item_texts(items, "[SEP]", 16), tokenizer, 16).lengths.tolist() == [16]


@pytest.mark.parametrize("lengths", [[], [3], [0, 2, 0], [5, 1, 5, 5, 1, 5, 5], [70, 70, 64, 1]])
def test_many_texts_are_encoded_in_batches_of_one_length(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without padding there is no mask; every text is in one batch, however long it is, and batches are full but the last of a length."""
    monkeypatch.setattr(encoder_module, "TOKENS_PER_BATCH", 16)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    tokens = Tokens(np.zeros(offsets[-1], np.int32), offsets)
    batches = [rows.tolist() for rows in tokens.batches(np.arange(len(lengths))[::-1])]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows, following in zip(batches, [*batches, []][1:], strict=True):
        length = lengths[rows[0]]
        assert {lengths[row] for row in rows} == {length} and len(rows) <= max(1, 16 // max(1, length))
        same = following and lengths[following[0]] == length
        assert not same or len(rows) == max(1, 16 // length)


def test_tokens_are_read_back_for_the_same_texts_and_made_anew_for_others(tmp_path: Path, tiny: EncoderConfig) -> None:
    """The cache is keyed by content."""
    _, tokenizer = load_encoder(tiny)
    first = item_tokens(catalogue(["Lamp", "Chair"]), tokenizer, tiny, tmp_path)
    again = item_tokens(catalogue(["Lamp", "Chair"]), tokenizer, tiny, tmp_path)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert len(list(tmp_path.iterdir())) == 1
    item_tokens(catalogue(["Lamp", "Table"]), tokenizer, tiny, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_packaged_encoder_tells_similar_texts_from_others() -> None:
    """The real weights are there and mean something."""
    text_encoder, tokenizer = load_encoder(EncoderConfig())
    texts = ["wireless noise cancelling headphones", "bluetooth over-ear headset", "organic basmati rice"]
    vectors = encode_all(text_encoder, FrozenPrefix(text_encoder, tokenize(texts, tokenizer, 64), "fp32"))
    near, far = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:])
    assert near > far + 0.3


@pytest.fixture(scope="module")
def packaged() -> tuple[TextEncoder, Int8Encoder, Tokens]:
    """Return the packaged encoder, the same in int8, and tokens of texts of many lengths."""
    pytest.importorskip("openvino")
    text_encoder, tokenizer = load_encoder(EncoderConfig())
    return text_encoder, Int8Encoder(text_encoder), tokenize(words(60), tokenizer, 64)


def test_vectors_in_int8_are_those_of_the_plain_model(packaged: tuple[TextEncoder, Int8Encoder, Tokens]) -> None:
    """The real weights rounded to 8 bits lose less than half a percent of the cosine."""
    text_encoder, fast, tokens = packaged
    plain = encode_all(text_encoder, FrozenPrefix(text_encoder, tokens, "fp32", limit_bytes=0))
    assert torch.nn.functional.cosine_similarity(fast.encode(tokens), plain).min() >= 0.995


def test_channels_that_are_large_for_every_text_leave_the_others_their_bits() -> None:
    """A model with 100 times larger values, and weights that undo it, is as accurate in int8."""
    pytest.importorskip("openvino")
    text_encoder, tokenizer = load_encoder(EncoderConfig())
    layers: Any = text_encoder.layers
    with torch.no_grad():
        for layer in layers:
            layer.attention.self.value.weight[::64] *= 100
            layer.attention.self.value.bias[::64] *= 100
            layer.attention.output.dense.weight[:, ::64] /= 100
    tokens = tokenize(words(60), tokenizer, 64)
    plain = encode_all(text_encoder, FrozenPrefix(text_encoder, tokens, "fp32", limit_bytes=0))
    vectors = Int8Encoder(text_encoder).encode(tokens)
    assert torch.nn.functional.cosine_similarity(vectors, plain).min() >= 0.995


def test_a_text_has_one_vector_in_int8_alone_and_among_others(
    packaged: tuple[TextEncoder, Int8Encoder, Tokens],
) -> None:
    """The API, which encodes one item, and a batch job, which encodes thousands, agree to the bit."""
    _, fast, tokens = packaged
    for row, vector in enumerate(fast.encode(tokens)[:20]):
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        torch.testing.assert_close(fast.encode(Tokens(ids, np.array([0, len(ids)])))[0], vector, atol=1e-6, rtol=0)


def test_the_encoder_in_int8_is_kept_and_follows_the_weights(tiny: EncoderConfig) -> None:
    """It is made once for the same weights, and anew after they were fine-tuned."""
    pytest.importorskip("openvino")
    text_encoder, tokenizer = load_encoder(tiny)
    first = int8_encoder(text_encoder, "auto")
    if first is None:
        pytest.skip("this CPU has no AVX-512 VNNI")
    assert int8_encoder(text_encoder, "auto") is first
    assert int8_encoder(load_encoder(tiny)[0], "auto") is first
    with torch.no_grad():
        text_encoder.model.encoder.layer[-1].output.dense.weight.mul_(2)  # type: ignore[union-attr, index]
    tokens = tokenize(words(5), tokenizer, 64)
    changed = int8_encoder(text_encoder, "auto")
    assert changed is not None and not torch.allclose(changed.encode(tokens), first.encode(tokens), atol=1e-2)


def test_a_signal_is_survived_after_an_int8_encoder_was_dropped_by_another_thread(tiny: EncoderConfig) -> None:
    """A server that has replaced its model still ends in order at SIGTERM."""
    program = f"""
import signal, threading
from recsys.config import EncoderConfig
from recsys.models.encoder import load_encoder
from recsys.models.encoder_int8 import Int8Encoder
encoders = [Int8Encoder(load_encoder(EncoderConfig(name={tiny.name!r}, trainable_layers=1, precision="fp32"))[0])]
dropping = threading.Thread(target=encoders.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGTERM, lambda *_: print("ended in order"))
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ended in order\n"), done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_auto_allows_int8(tiny: EncoderConfig, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """A precision that is set by hand holds for the encoder that serves as well."""
    monkeypatch.setattr("recsys.models.encoder_int8.native", lambda encoder: True)
    assert int8_encoder(load_encoder(tiny)[0], precision) is None


def test_a_model_that_openvino_cannot_read_is_left_as_it_is(
    tiny: EncoderConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Encoding goes on without int8, and the log says so once."""

    def refuse(encoder: torch.nn.Module) -> None:
        raise RuntimeError("no rule for aten::strange\nmore lines")

    monkeypatch.setattr("recsys.models.encoder_int8.to_graph", refuse)
    monkeypatch.setattr("recsys.models.encoder_int8.native", lambda encoder: True)
    text_encoder, _ = load_encoder(tiny)
    assert int8_encoder(text_encoder, "auto") is None
    assert int8_encoder(text_encoder, "auto") is None
    assert len(caplog.messages) == 1 and caplog.messages[0].endswith("no rule for aten::strange")


def test_altered_packaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum is compared at load."""
    monkeypatch.setattr(encoder_module, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(RecsysError, match=r"SHA-256 is 53aa51172d14….*reinstall"):
        load_encoder(EncoderConfig())


@pytest.mark.parametrize("name", ["/no/such/folder", "gpt"])
def test_an_encoder_that_is_missing_or_of_another_kind_is_one_clear_line(tmp_path: Path, name: str) -> None:
    """The message names the setting and a hint."""
    if name == "gpt":
        from transformers import GPT2Config, GPT2Model

        _, tokenizer = load_encoder(EncoderConfig())
        GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        name = str(tmp_path)
    with pytest.raises(RecsysError, match=r"encoder\.name .*BERT-like") as raised:
        load_encoder(EncoderConfig(name=name))
    assert "\n" not in str(raised.value)


def test_item_texts_never_fail_on_absent_columns_content() -> None:
    """A catalogue of titles alone is enough."""
    assert item_texts(catalogue(["A", "B"]).with_columns(brand=pl.lit("")), "[SEP]", 64) == ["A", "B"]


def test_more_trainable_layers_than_the_encoder_has_are_refused(tiny: EncoderConfig) -> None:
    """The line says how many it has."""
    with pytest.raises(RecsysError, match=r"encoder\.trainable_layers: .* has \d layers, 99 cannot be trained"):
        load_encoder(tiny.model_copy(update={"trainable_layers": 99}))
