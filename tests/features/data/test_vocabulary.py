"""What the encoder cannot read is in the check's report, and training warns of it."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from features.data.dataset import load_dataset
from features.data.validate import check
from features.data.vocabulary import SAMPLE_ITEMS, readability
from recsys.config import PACKAGED_ENCODER, Config
from tests.worlds import catalogue, tiny_encoder, write_dataset
from training.prepared import prepare_dataset

READABLE = [
    "Wireless Noise-Cancelling Headphones",
    "Kabellose Kopfhörer mit Geräuschunterdrückung",
    "Kablosuz gürültü önleyici kulaklık, ışıklı şarj kutusu",
    "Bezprzewodowe słuchawki z redukcją szumów, żółte",
    "Tai nghe không dây chống ồn màu đen",
    "Cute cat mug 🐱🎁 for her",
]
UNREADABLE = [
    "หูฟังไร้สายตัดเสียงรบกวน iPhone 15",
    "无线降噪耳机 黑色",
    "無線の騒音を消すヘッドホン",
    "Беспроводные наушники с шумоподавлением",
    "Ασύρματα ακουστικά με ακύρωση θορύβου",
    "سماعات لاسلكية بخاصية إلغاء الضوضاء",
    "무선 노이즈 캔슬링 헤드폰",
    "शोर रद्द करने वाले वायरलेस हेडफ़ोन",
    "🎧🔥 🎁",
]


def shop(folder: Path, titles: list[str]) -> Path:
    """Write a dataset whose first items have `titles`, out of 20."""
    names = [*titles, *(f"Lamp {row}" for row in range(20 - len(titles)))]
    rows = "".join(f'i{row},"{title}"\n' for row, title in enumerate(names))
    return write_dataset(folder, **{"items.csv": "item_id,title\n" + rows})


@pytest.mark.parametrize("title", READABLE)
def test_latin_script_is_readable(title: str) -> None:
    """In whatever language, with an emoji or two."""
    result = readability(catalogue([title]), PACKAGED_ENCODER)
    assert not result.unreadable and result.unread_share < 0.2


@pytest.mark.parametrize("title", UNREADABLE)
def test_scripts_that_the_vocabulary_lacks_or_spells_are_unreadable(title: str) -> None:
    """Spelled letter by letter they would pass for known."""
    result = readability(catalogue(["Lamp", title]), PACKAGED_ENCODER)
    assert result.unreadable == [f"i1 ({title[:60]!r})"]


def test_a_large_catalogue_is_sampled() -> None:
    """So that its check stays fast; the sample is always the same."""
    items = catalogue(["Lamp", UNREADABLE[0]] * SAMPLE_ITEMS)
    result = readability(items, PACKAGED_ENCODER)
    assert result == readability(items, PACKAGED_ENCODER) and result.items == SAMPLE_ITEMS
    assert 0.45 < len(result.unreadable) / result.items < 0.55


def test_the_report_names_a_multilingual_encoder_where_many_items_are_unreadable(tmp_path: Path) -> None:
    """One in twenty is many; the dataset is still valid."""
    report = check(shop(tmp_path, UNREADABLE[:1]))
    assert "5.0% of 20 items unreadable" in report.counts[f"texts for {PACKAGED_ENCODER}"]
    line = report.violations[0].line()
    assert "items.csv" in line and "i0 ('หูฟัง" in line and "--set encoder.name=intfloat/multilingual-e5-small" in line
    assert report.ok


def test_readable_texts_are_reported_without_a_warning(tmp_path: Path) -> None:
    """Their share is told all the same."""
    report = check(shop(tmp_path, READABLE))
    assert not report.violations
    assert "0.0% of 20 items unreadable" in report.counts[f"texts for {PACKAGED_ENCODER}"]


def test_an_encoder_that_is_not_there_is_a_line_and_no_failure(tmp_path: Path) -> None:
    """Everything else is checked."""
    report = check(shop(tmp_path, []), encoder=str(tmp_path))
    assert report.ok
    assert report.counts[f"texts for {tmp_path}"].startswith("not checked: encoder.name")


def test_the_check_loads_no_network(tmp_path: Path) -> None:
    """The vocabulary is one file, and torch takes seconds to import."""
    code = "import sys; from recsys.cli import cli; cli(standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    folder = shop(tmp_path, UNREADABLE)
    done = subprocess.run([sys.executable, "-c", code, "data", "check", folder], capture_output=True, check=False)
    assert done.returncode == 0 and PACKAGED_ENCODER in done.stdout.decode()


def test_training_warns_once_with_the_line_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And goes on."""
    encoder = tiny_encoder(tmp_path / "encoder")
    folder = shop(tmp_path / "shop", UNREADABLE)
    prepare_dataset(load_dataset(folder), Config.model_validate({"encoder": {"name": encoder}}), seed=0)
    assert capsys.readouterr().err.count(f"warning: {check(folder, encoder).violations[0].line()}\n") == 1


def test_an_item_without_a_title_is_judged_by_its_description() -> None:
    """One without any text is not unreadable: other rules report it."""
    items = catalogue(["", "Lamp"], description=[UNREADABLE[0], None]).with_columns(title=pl.lit(None, pl.String))
    assert readability(items, PACKAGED_ENCODER).unreadable == ["i0 ('')"]
