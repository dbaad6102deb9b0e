"""Writes `docs/img/first-tokens.svg`: a real session in a terminal. Run it by `python -m tests.docs.terminal`."""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tokenworks.testing.running import Running, running

TARGET = Path("docs/img/first-tokens.svg")
COLUMNS = 136
QUESTION = "In one sentence: what is electricity?"


def main() -> None:
    """Start tokenworks on its usual port, ask, look at the record, draw what was printed."""
    with running(port="8080") as tokenworks:
        screen = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
        _say(screen, "make up", _shorten(tokenworks))
        for command in (
            ["chat", QUESTION, "--max-tokens", "48", "--temperature", "0"],
            ["usage", "--requests"],
            ["status"],
        ):
            _say(screen, " ".join(["tokenworks", *(_quote(word) for word in command)]), _run(tokenworks, command))
        drawing = screen.export_svg(title="tokenworks")
    # The fonts of the viewer serve as well: a picture in a README loads nothing from elsewhere.
    TARGET.write_text(re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", drawing, flags=re.DOTALL))


def _say(screen: Console, command: str, output: str) -> None:
    screen.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    screen.print(Text.from_ansi(output.rstrip()))
    screen.print()


def _run(tokenworks: Running, command: list[str]) -> str:
    environment = {**tokenworks.environment, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    return subprocess.run(
        [sys.executable, "-m", "tokenworks.cli.main", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _shorten(tokenworks: Running) -> str:
    """What `up` printed, without the folder that this run made."""
    return tokenworks.output.strip().replace(str(tokenworks.home), "~/.local/share/tokenworks")


def _quote(word: str) -> str:
    return f'"{word}"' if " " in word else word


if __name__ == "__main__":
    main()
