"""Atomic writes: files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from recsys.atomic import atomic_file, atomic_folder
from recsys.errors import RecsysError


def test_a_file_appears_only_when_the_body_ends_well(tmp_path: Path) -> None:
    """A failure leaves the older file as it was, and nothing beside it."""
    out = tmp_path / "report.json"
    with atomic_file(out) as temporary:
        temporary.write_text("old")
        assert not out.exists()
    with pytest.raises(ValueError, match="broken"), atomic_file(out) as temporary:
        temporary.write_text("half")
        raise ValueError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert out.read_text() == "old"


def test_a_folder_appears_only_when_the_body_ends_well(tmp_path: Path) -> None:
    """An empty folder of that name may stand there; a failure leaves nothing beside it."""
    out = tmp_path / "shop"
    out.mkdir()
    with pytest.raises(ValueError, match="broken"), atomic_folder(out) as folder:
        (folder / "items.csv").write_text("half")
        raise ValueError("broken")
    assert list(out.iterdir()) == [] and list(tmp_path.iterdir()) == [out]
    with atomic_folder(out) as folder:
        (folder / "items.csv").write_text("whole")
    assert [path.name for path in out.iterdir()] == ["items.csv"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(RecsysError, match="not an empty folder"), atomic_folder(tmp_path):
        pass
    assert (tmp_path / "kept.txt").read_text() == "mine"
