"""The tutorial is run, block by block, against a real tokenworks; what it shows must come out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import Block, read_blocks
from tests.tidy.sources import ROOT
from tokenworks.testing.running import Running

PAGE = ROOT / "docs" / "tutorial" / "first-tokens.md"
_ADDRESS = "http://127.0.0.1:8080"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial uses curl: apt-get install curl")
def test_tutorial_runs(tokenworks: Running, tmp_path: Path) -> None:
    blocks = read_blocks(PAGE)
    assert blocks.pop(0).text == "make up\n"  # the fixture stands for it
    folder = tmp_path / "a checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    program = folder / ".venv" / "bin" / "tokenworks"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tokenworks.cli.main "$@"\n')
    program.chmod(0o755)
    said = ""
    for block in blocks:
        if block.language == "text":
            assert _matches(block.text, said), f"line {block.line}: it said\n{said}"
        else:
            said = _run(block, tokenworks, folder)


def _run(block: Block, tokenworks: Running, folder: Path) -> str:
    text = block.text.replace(_ADDRESS, tokenworks.url)
    command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    ended = subprocess.run(
        command, cwd=folder, env=tokenworks.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, f"line {block.line}: {ended.stderr}\n{ended.stdout}"
    return ended.stdout


def _matches(shown: str, said: str) -> bool:
    """Each line that is shown was said, in this order; `...` stands for anything."""
    pattern = ".*".join(re.escape(line).replace(re.escape("..."), ".*") for line in shown.strip().splitlines())
    return re.search(pattern, said, re.DOTALL) is not None


def test_matching_can_fail() -> None:
    assert _matches("key ... is revoked\n", "key key_1 is revoked\n")
    assert not _matches("key ... is revoked\n", "key key_1 is kept\n")
    assert not _matches("a\nb\n", "b\na\n")
