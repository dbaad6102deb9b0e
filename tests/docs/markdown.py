"""Code blocks and links of our pages."""

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    line: int
    language: str
    text: str


def read_blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    page = path.read_text(encoding="utf-8")
    return [Block(page.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _FENCE.finditer(page)]


def read_links(path: Path) -> list[str]:
    """The links of a page to files of ours."""
    return [link for link in _LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
