"""Links between pages lead somewhere, and every page is linked."""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Page


def inside(page: Page, link: str) -> tuple[Path, str] | None:
    """Return file and anchor that `link` leads to, or None for a link out of the repository."""
    if "://" in link:
        return None
    path, _, anchor = link.partition("#")
    return ((page.path.parent / path).resolve() if path else page.path), anchor


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_relative_link_and_anchor_resolves(page: Page) -> None:
    """A link names a file of the repository, and where it has an anchor a heading of that file."""
    broken = []
    for link in page.links:
        target = inside(page, link)
        if target is None:
            continue
        path, anchor = target
        if not path.is_file() or not path.is_relative_to(ROOT) or (anchor and anchor not in Page(path).anchors):
            broken.append(link)
    assert not broken


def test_every_page_is_reached_from_the_readme() -> None:
    """Following links from README.md leads to every page."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        targets = [inside(Page(path), link) for link in Page(path).links]
        waiting += {target[0] for target in targets if target and target[0].suffix == ".md"} - reached
    assert {page.path for page in PAGES} <= reached


def test_the_decisions_are_listed_with_date_and_status() -> None:
    """Each decision has a date and a status, and its row in the index says the same."""
    rows = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8").splitlines()
    for path in sorted(ROOT.glob("docs/decisions/[0-9]*.md")):
        lines = path.read_text(encoding="utf-8").splitlines()
        date, status = lines[2].removeprefix("Date: "), lines[3].removeprefix("Status: ")
        title = lines[0].removeprefix(f"# {path.name[:3]} – ")
        assert f"| {path.name[:3]} | [{title}]({path.name}) | {date} | {status} |" in rows
