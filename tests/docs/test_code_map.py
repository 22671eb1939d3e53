"""CONTRIBUTING.md's map of the code is complete, and names nothing that is gone."""

import ast
import re
from pathlib import Path

from tests.docs.pages import PAGES, ROOT

PACKAGES = ("recsys", "features", "serving", "training")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs", ".ci")
MAP = next(page for page in PAGES if str(page) == "CONTRIBUTING.md")
PATH = re.compile(r"`([\w./-]+\.\w+|[\w./-]+/)(?:::([\w.]+))?`")
"""A file or folder between backticks, and what is defined in it: `training/pipeline.py::train`."""


def mentions() -> list[tuple[str, str]]:
    """Return every path that the page mentions, with the name in it; rows of the table give their folder."""
    named = []
    for line in MAP.path.read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| `([\w./-]+/)` \|", line)
        for path, name in PATH.findall(line):
            if row and not path.startswith(FOLDERS):
                path = row[1] + path
            if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                named.append((path, name))
    return named


def defined(path: Path) -> set[str]:
    """Return the functions, classes, methods (`Class.method`) and constants of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{child.name}" for child in ast.walk(node) if isinstance(child, ast.FunctionDef)}
    return names


def test_every_module_is_on_the_map() -> None:
    """A module that does something is mentioned by its path."""
    modules = {path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")}
    expected = {path.relative_to(ROOT).as_posix() for path in modules if path.name != "__init__.py"}
    steps = {path for path in expected if path.startswith("serving/store/migrations/versions/")}
    assert expected - steps - {path for path, _ in mentions()} == set()


def test_everything_on_the_map_exists() -> None:
    """Paths exist, and what is named in a module is defined there."""
    wrong = []
    for path, name in mentions():
        if not (ROOT / path).exists():
            wrong.append(path)
        elif name and name not in defined(ROOT / path):
            wrong.append(f"{path}::{name}")
    assert wrong == []
