"""A hook of MkDocs: the pages at the repository's root become pages of the site.

In: README.md, CONTRIBUTING.md and the like, whose links start at the root. Out: the same pages beside those of
`docs/`, with links that hold there, and a navigation that lists every page of a folder.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE.md",
}
"""Files at the root and what they are called on the site."""

LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
"""The target of a relative link or image."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page of a folder where the navigation names it."""
    config.nav = [in_full(entry) for entry in config.nav or []]
    return config


def in_full(entry: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    """Return an entry of the navigation, all pages of a folder instead of its name."""
    ((title, target),) = entry.items()
    if not isinstance(target, str) or not target.endswith("/"):
        return entry
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob(f"docs/{target}*.md")}
    first = f"{target}README.md"
    return {title: [first, *sorted(pages - {first})]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root to those of `docs/`."""
    for path, page in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            text = f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return `markdown` with its relative links as they are on the site."""
    name = page.file.src_uri
    folder = "" if name in PAGES.values() else normpath(f"docs/{name}/..")

    def moved(link: re.Match[str]) -> str:
        target = normpath(f"{folder}/{link['path']}").lstrip("/")  # from the repository's root
        target = PAGES.get(target, target.removeprefix("docs/"))
        return relpath(target, normpath(f"{name}/..")) + (link["anchor"] or "")

    return LINK.sub(moved, markdown)
