"""What our pages name exists: links, verbs of the Makefile, commands."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs.markdown import read_blocks, read_links
from tests.tidy.sources import ROOT, text_files
from tokenworks.cli.main import app

PAGES = [path for path in text_files() if path.suffix == ".md"]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

_LANGUAGES = {"sh", "python", "text", "json", "toml"}


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    assert not [link for link in read_links(page) if not (page.parent / link).exists()]


@EVERY_PAGE
def test_verbs_exist(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<=[`\n])make ([a-z]+)", page.read_text())) <= verbs


@EVERY_PAGE
def test_commands_exist(page: Path) -> None:
    command: Any = typer.main.get_command(app)
    named = set(re.findall(r"(?:`|bin/)tokenworks ([a-z]+)", page.read_text()))
    assert named <= set(command.commands)


@EVERY_PAGE
def test_blocks_say_what_they_are(page: Path) -> None:
    assert not [block.line for block in read_blocks(page) if block.language not in _LANGUAGES]


@EVERY_PAGE
def test_data_in_blocks_can_be_read(page: Path) -> None:
    for block in read_blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
