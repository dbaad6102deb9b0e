"""What stands in our files reads on any machine: no path, host or mirror of the machine that wrote it."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, text_files
from tokenworks import __version__

EVERY_TEXT = pytest.mark.parametrize("path", text_files(), ids=lambda path: path.relative_to(ROOT).as_posix())

_MACHINE = re.compile(r"(?<![\w.])/(work|root|Users|home/\w+|opt/(wheels|pypi)|mnt|tmp/\w)[/\w]*")
_REGISTRY = re.compile(r"\b(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|index-url|find-links|artifactory|devpi)\b")
_LEFT_OVER = re.compile(r"^(<<<<<<<|>>>>>>>|=======$)|\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", re.MULTILINE)


@EVERY_TEXT
def test_no_path_of_a_machine(path: Path) -> None:
    assert not _find(_MACHINE, path)


@EVERY_TEXT
def test_no_registry_host(path: Path) -> None:
    assert not _find(_REGISTRY, path)


@EVERY_TEXT
def test_nothing_left_over(path: Path) -> None:
    assert not _find(_LEFT_OVER, path)


@EVERY_TEXT
def test_ends_with_one_newline(path: Path) -> None:
    content = path.read_bytes()
    if content:
        assert content.endswith(b"\n"), path.name
        assert b"\r" not in content, path.name


def test_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["test"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_canonical(line.split("==")[0]) for line in lines if "==" in line}
    assert not [name for name in map(_canonical, wanted) if name not in pinned]


def _canonical(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


def _find(pattern: re.Pattern[str], path: Path) -> list[str]:
    if path == Path(__file__).resolve():
        return []  # the patterns themselves
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    return [f"{name}:{text.count(chr(10), 0, found.start()) + 1} {found.group()}" for found in pattern.finditer(text)]
