"""Context of requests and attributes of users: read, fitted, refused, and what sessions tell."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from features.context import (
    LEAST_COUNT,
    OF_EVENT,
    ContextColumns,
    ContextError,
    UserAttributes,
    fit_columns,
    objects,
    refuse_unknown_columns,
)
from features.facts import fit_facts
from features.histories import EARLY, LATE, TEST, VALID, EventLog, build_log, fit_context
from features.leakage import refuse_leakage
from features.ranking import RankingFeatures
from recsys.config import RankerConfig
from recsys.errors import RecsysError
from tests.worlds import DAY, START, catalogue

CONFIG = RankerConfig(context=("device", "speed", "session_id"), user_attributes=("plan", "age"))
MINUTE = 60_000_000
ITEMS = catalogue([f"item {row}" for row in range(4)], brand=["A", "B", "A", None], category=["x", "x", "y", "y"])
USERS = pl.DataFrame({"user_id": ["u0", "u1", "idle"], "plan": ["free", "family", "free"], "age": [41, None, 7]})
EVENTS = {
    "user_id": pl.String(),
    "timestamp": pl.Int64(),
    "device": pl.String(),
    "bought": pl.Date(),
    "session_id": pl.String(),
}


def log() -> EventLog:
    """Return two days of u0, the second in two sessions and on two devices, and one of u1."""
    rows = [
        ("u0", "i0", 0, "s1", "phone", 1.0, "train"),
        ("u0", "i1", DAY, "s2", "phone", 2.0, "train"),
        ("u0", "i2", DAY + 5 * MINUTE, "s2", "phone", None, "valid"),
        ("u0", "i3", DAY + 9 * MINUTE, "s2", "tv", 4.0, "test"),
        ("u1", "i0", DAY, None, None, 3.0, "train"),
        ("u1", "i1", DAY + 1, "s3", "phone", 3.0, "valid"),
    ]
    names = ("user_id", "item_id", "timestamp", "session_id", "device", "speed", "split")
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame = frame.with_columns(pl.col("timestamp") + START, event_type=pl.lit("click"))
    built = build_log(frame.lazy(), ITEMS["item_id"], 0.25, CONFIG)
    return replace(built, attributes=UserAttributes.read(USERS, CONFIG))


def test_a_request_has_the_context_of_its_target_and_the_attributes_of_its_user() -> None:
    requests = log().requests(EARLY, LATE, VALID, TEST)
    last = requests.select(np.flatnonzero(requests.times == START + DAY + 9 * MINUTE))
    assert {name: values.tolist() for name, values in last.named.items()} == {
        "context_device": ["tv"], "context_speed": [4.0], "user_plan": ["free"], "user_age": [41],
    }  # fmt: skip
    assert log().histories_of(last, 5).named is last.named


def test_texts_have_codes_by_frequency_and_rare_ones_none() -> None:
    """Unknown, missing and rare texts share 0; an unknown number is the usual one."""
    devices = ["tv"] * LEAST_COUNT + ["phone"] * (LEAST_COUNT + 1) + ["watch"] * (LEAST_COUNT - 1) + [None] * 50
    values = {"context_device": pl.Series("context_device", devices), "context_speed": pl.Series("s", [1.0, None, 3.0])}
    columns = fit_columns(CONFIG, values, {})
    device, speed = columns.texts["context_device"], columns.numbers["context_speed"]
    assert device.texts == ("phone", "tv")
    named = {
        "context_device": objects(["tv", "watch", None, "phone", "new"]),
        "context_speed": objects([5, None, True, 0.5, "x"]),
    }
    assert device.codes(named, 5)[:, 0].tolist() == [2, 0, 0, 1, 0]
    assert speed.numbers(named, 5)[:, 0].tolist() == [5, 2, 1, 0.5, 2]
    assert device.codes({}, 2).tolist() == [[0], [0]] and speed.numbers({}, 1).tolist() == [[2]]
    assert ContextColumns.from_dict(columns.as_dict()) == columns


def test_the_vocabulary_knows_training_events_alone() -> None:
    """Not those of `valid` and `test`, of which `tv` and the speed 4 are."""
    columns = fit_context(log(), CONFIG)
    assert columns.numbers["context_speed"].usual == 2 and columns.numbers["user_age"].usual == 41
    assert list(columns.texts) == ["context_device", "user_plan"] and columns.sessions


def test_sessions_tell_what_was_done_in_them_before_the_request() -> None:
    """Two events and nine minutes for the last request of u0; nothing for a request outside of any session."""
    requests = log().requests(EARLY, LATE, VALID, TEST)
    histories = log().histories_of(requests, 3)
    features = RankingFeatures(fit_facts(ITEMS, None, ()), True, (), (), context=fit_context(log(), CONFIG))
    candidates = np.tile(np.arange(4), (len(requests), 1))
    nothing = np.zeros((len(requests), 4, 3), np.float32)
    dense = features.dense(features.inputs(histories, candidates, {}, nothing, nothing, nothing > 0))
    found = {name: dense[:, :, features.names.index(name)] for name in features.names if name.startswith("session")}
    last, none = (np.flatnonzero(requests.times == START + DAY + after)[-1] for after in (9 * MINUTE, 1))
    np.testing.assert_allclose(found["session_events"][last], np.log1p(2))
    np.testing.assert_allclose(found["session_age"][last], np.log1p(9), rtol=1e-6)
    np.testing.assert_allclose(found["session_brand_share"][last], [0.5, 0.5, 0.5, 0])
    np.testing.assert_allclose(found["session_category_share"][last], [0.5, 0.5, 0.5, 0.5])
    assert all(not values[none].any() for values in found.values())


def test_context_and_sessions_leak_nothing() -> None:
    features = RankingFeatures(fit_facts(ITEMS, None, ()), True, (), (), context=fit_context(log(), CONFIG))
    early = log().only(log().times < START + DAY)
    refuse_leakage(features, ITEMS, early, log(), log().requests(VALID, TEST))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RankerConfig(context=("devise",)), "no column 'devise'; did you mean 'device'?"),
        (RankerConfig(context=("timestamp",)), "'timestamp' is no circumstance of a request"),
        (RankerConfig(context=("bought",)), "'bought' holds Date; name a column of texts or numbers"),
        (RankerConfig(user_attributes=("agee",)), "the users have no column 'agee'; did you mean 'age'?"),
    ],
)
def test_names_that_cannot_be_used_are_refused_in_one_line(config: RankerConfig, message: str) -> None:
    with pytest.raises(RecsysError, match="ranker") as error:
        refuse_unknown_columns(config, pl.Schema(EVENTS), USERS.schema)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_attributes_without_a_table_of_users_are_refused() -> None:
    with pytest.raises(RecsysError, match="no table of users"):
        refuse_unknown_columns(CONFIG.model_copy(update={"context": ()}), pl.Schema(EVENTS), None)


def test_unknown_names_and_other_kinds_are_refused_with_those_that_are_known() -> None:
    columns = fit_context(log(), CONFIG)
    assert columns.named({"device": "tv", "speed": 2}, OF_EVENT, "here") == {"context_device": "tv", "context_speed": 2}
    with pytest.raises(ContextError, match="here: the model knows nothing of 'os'; it knows device, speed"):
        columns.named({"os": "x"}, OF_EVENT, "here")
    with pytest.raises(ContextError, match="here: 'device' is a text in this model, not '3'"):
        columns.named({"device": 3}, OF_EVENT, "here")
    with pytest.raises(ContextError, match="here: 'speed' is a number in this model, not 'fast'"):
        columns.named({"speed": "fast"}, OF_EVENT, "here")
