"""The documentation's pages as their Markdown says: headings, links, code blocks and code spans."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
SHELL = ("", "sh", "bash")
"""Languages of code blocks that hold commands; most are written without one."""


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def tokens(self) -> list[Token]:
        """What the file parses to."""
        return MarkdownIt("commonmark").enable("table").parse(self.path.read_text(encoding="utf-8"))

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, by the rule of code hosts."""
        texts = [token.content for before, token in pairwise(self.tokens) if before.type == "heading_open"]
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}

    @property
    def links(self) -> list[str]:
        """The targets of links and images."""
        inline = [child for token in self.tokens for child in token.children or []]
        targets = [str(token.attrGet("href" if token.type == "link_open" else "src") or "") for token in inline]
        return [target for target in targets if target]

    @property
    def spans(self) -> list[str]:
        """The code between backticks."""
        return [child.content for token in self.tokens for child in token.children or [] if child.type == "code_inline"]

    def blocks(self, *languages: str) -> list[str]:
        """Return the code blocks in any of `languages`."""
        fenced = [token.content for token in self.tokens if token.type == "fence" and token.info.strip() in languages]
        indented = [token.content for token in self.tokens if token.type == "code_block" and "" in languages]
        return fenced + indented

    @property
    def commands(self) -> list[str]:
        """The lines of the shell blocks, without comments; a line that goes on is one with the next."""
        lines = [line for block in self.blocks(*SHELL) for line in block.replace("\\\n", " ").splitlines()]
        stripped = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
        return [line for line in stripped if line]


PAGES = [
    Page(path) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]) if "reference" not in path.parts
]


def words(command: str) -> list[str]:
    """Return the words of a command as a shell would see them."""
    return shlex.split(command)
