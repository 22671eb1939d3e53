"""`recsys text monitor`: surges are found, and nothing else alarms."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.errors import RecsysError
from recsys.events import DAY_US
from serving.text.opinion import counted, watch_opinion
from tests.command_line import run

START = datetime(2026, 1, 1, tzinfo=UTC)


def stream(
    days: int, share: float, surge: float = 0.0, topic: str = "lamps", a_day: int = 80, seed: int = 0
) -> pl.DataFrame:
    """Return texts of a topic, `share` of them negative and, on the last day, `surge` more."""
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.uniform(0, 24 * days, a_day * days))
    negative = rng.random(len(hours)) < share + surge * (hours >= 24 * (days - 1))
    times = [START + timedelta(hours=float(hour)) for hour in hours]
    return pl.DataFrame({"timestamp": times, "topic": topic, "label": np.where(negative, "negative", "positive")})


def charts(table: pl.DataFrame) -> pl.DataFrame:
    """Return the series of a table."""
    time = pl.col("timestamp").dt.timestamp("us").alias("time")
    return table.select(by=pl.lit("topic"), name="topic", time=time, negative=pl.col("label") == "negative")


def test_a_surge_is_found_within_its_day() -> None:
    """And says since when, how much, and what is usual."""
    watched = watch_opinion(counted(charts(stream(40, 0.15, 0.4))))
    alarm = watched.episodes.row(0, named=True)
    assert watched.episodes.height == 1
    began = int((START + timedelta(days=39)).timestamp() * 1e6)
    assert began < alarm["since"] <= began + DAY_US
    assert alarm["negative"] > 0.3 and alarm["usual"] == pytest.approx(0.15, abs=0.03)


def test_an_even_stream_gives_no_more_alarms_than_are_allowed() -> None:
    """Twenty topics over five months, one alarm a month."""
    tables = [stream(150, 0.1 + 0.01 * one, topic=str(one), a_day=30, seed=one) for one in range(20)]
    watched = watch_opinion(counted(charts(pl.concat(tables))))
    assert watched.charted.all()
    assert watched.episodes.height <= 5


def test_an_alarm_knows_nothing_of_later_texts() -> None:
    """The chart of the first days is the same without those that follow."""
    table = charts(stream(40, 0.2, 0.4))
    whole, part = (watch_opinion(counted(rows)) for rows in (table, table.head(2000)))
    width = part.sums.shape[1] - 1  # the last period may lack texts
    np.testing.assert_allclose(whole.sums[:, :width], part.sums[:, :width])


def test_what_lasts_becomes_usual() -> None:
    """After two months of the new level nothing alarms any more."""
    rng_before, rng_after = (
        stream(40, 0.1),
        stream(90, 0.3, seed=1).with_columns(pl.col("timestamp") + timedelta(days=40)),
    )
    watched = watch_opinion(counted(charts(pl.concat([rng_before, rng_after]))))
    assert watched.episodes.height and not watched.latest(20).height


def test_too_few_texts_are_one_line() -> None:
    """Nothing is usual of them."""
    with pytest.raises(RecsysError, match="no topic or item has 30 texts"):
        counted(charts(stream(2, 0.1, a_day=10)))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_command_exits_with_1_at_an_alarm_after_its_reports(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the format of the table, with texts of items in it, too."""
    monkeypatch.chdir(tmp_path)
    quiet = stream(40, 0.2, topic="chairs", seed=2)
    table = pl.concat([stream(40, 0.15, 0.4), quiet]).with_columns(pl.lit("i1").alias("item_id"))
    if kind != "parquet":
        table = table.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    file = f"comments.{kind}"
    writers: dict[str, Callable[[str], object]] = {
        "csv": table.write_csv,
        "jsonl": table.write_ndjson,
        "parquet": table.write_parquet,
    }
    writers[kind](file)
    code, out, err = run(capsys, "text", "monitor", file, "--picture", "o.png", "--metrics", "o.prom", "--out", "o.csv")
    assert code == 1 and "topic lamps: " in err and "usual is" in err and "chairs" not in err
    assert "alarm" in out
    assert Path("o.png").read_bytes().startswith(b"\x89PNG")
    assert 'recsys_text_alarm{by="topic",name="lamps"} 1.0' in Path("o.prom").read_text()
    assert 'recsys_text_alarm{by="topic",name="chairs"} 0.0' in Path("o.prom").read_text()
    assert set(pl.read_csv("o.csv")["name"]) == {"lamps", "chairs", "i1"}


def test_without_an_alarm_it_exits_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old surge counts no more."""
    monkeypatch.chdir(tmp_path)
    after = stream(10, 0.15, seed=3).with_columns(pl.col("timestamp") + timedelta(days=40))
    pl.concat([stream(40, 0.15, 0.4), after]).write_parquet("comments.parquet")
    code, out, _ = run(capsys, "text", "monitor", "comments.parquet")
    assert code == 0 and "alarms" in out
    assert run(capsys, "text", "monitor", "comments.parquet", "--days", "20")[0] == 1


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"topic": ["a"], "label": ["0"]}, "no column timestamp or time or date among topic, label"),
        ({"timestamp": ["2026-01-01"], "label": ["0"]}, "no column topic or item_id among"),
        ({"timestamp": ["2026-01-01"], "topic": ["a"]}, "no column text or negative or label among"),
        (
            {"timestamp": ["soon"], "topic": ["a"], "label": ["0"]},
            "1 of 1 times in 'timestamp' cannot be read, for example row 1, 'soon'",
        ),
        (
            {"timestamp": ["2026-01-01"], "topic": ["a"], "label": ["bad"]},
            "--negative was not given: the labels are bad",
        ),
    ],
)
def test_a_wrong_table_is_one_line(
    columns: dict[str, list[str]],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which names what is missing."""
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(columns).write_csv("t.csv")
    code, _, err = run(capsys, "text", "monitor", "t.csv")
    assert code == 1 and problem in err and err.count("\n") == 1
