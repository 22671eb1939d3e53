"""An incomplete installation is one line, and a user's folder never hides a package of ours."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import features
from recsys import packages
from recsys.errors import RecsysError


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Return a folder with packages that have the names of ours."""
    for name in packages.OWN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the user')\n")
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, which comes first on its path."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_a_users_packages_of_the_same_names_do_not_hide_ours(theirs: Path) -> None:
    """Neither from the command line nor from a program."""
    shop = ("data", "simulate", "--out", "shop", "--users", "20", "--items", "50")
    assert python(theirs, "-m", "recsys", *shop).returncode == 0
    program = "import recsys, features, serving.filters, training; print(features.__file__)"
    assert python(theirs, "-c", program).stdout.strip() == features.__file__


def test_a_package_that_was_imported_before_ours_is_named(theirs: Path) -> None:
    """With its folder and what to do."""
    (theirs / "features" / "__init__.py").write_text("")
    ended = python(theirs, "-c", "import features, recsys")
    assert ended.stderr.splitlines()[-1].startswith(f"recsys.errors.RecsysError: {theirs / 'features'}")
    assert "import recsys first" in ended.stderr


@pytest.mark.slow
def test_a_users_packages_do_not_hide_ours_from_workers(theirs: Path) -> None:
    """Ray puts the working directory first on their path."""
    program = (
        "from recsys.cluster import start_ray\n"
        "start_ray()\n"
        "import ray, serving.lists\n"
        "work = ray.remote(serving.lists.meanings)\n"  # pickled by name: the worker imports its package
        "print(ray.get(work.remote(['rank'])))\n"
    )
    assert "position in the list" in python(theirs, "-c", program).stdout


def absent(*names: str) -> Callable[[str], object]:
    """Return a finder of modules that does not find `names`."""
    return lambda name: None if name in names else object()


@pytest.mark.parametrize(
    ("module", "line"),
    [("faiss", r"pip install 'recsys-text\[cpu\]'"), ("torchrec", r"`pip install --no-deps torchrec==[\d.]+`")],
)
def test_a_missing_package_is_one_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, module: str, line: str
) -> None:
    """As plain pip leaves it."""
    packages.require_complete()
    monkeypatch.setattr(packages, "find_spec", absent(module))
    with pytest.raises(RecsysError, match=line):
        packages.require_complete()


@pytest.mark.parametrize(("installed", "count"), [(("fbgemm-gpu", "fbgemm-gpu-cpu"), 2), ((), 0)])
def test_two_builds_of_fbgemm_or_none_are_one_line(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], count: int
) -> None:
    """They overwrite each other's files."""
    monkeypatch.setattr(packages, "installed", lambda name: name in installed)
    with pytest.raises(RecsysError, match=rf"{count} are installed; `pip uninstall .* fbgemm-gpu-cpu==[\d.]+`"):
        packages.require_complete()
