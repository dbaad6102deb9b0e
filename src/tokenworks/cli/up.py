"""`tokenworks up`: start everything in the foreground and say how to use it."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenworks.server.supervisor import Ready


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    home: Annotated[Path | None, typer.Option(help="Where all state lives; wins over TOKENWORKS_HOME.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on; wins over TOKENWORKS_PORT; 0: any free one."),
    ] = None,
) -> None:
    """Start tokenworks in the foreground. Ctrl-C stops it; answers in flight finish first."""
    import asyncio

    from tokenworks.kit.config import read_settings
    from tokenworks.server.supervisor import run

    settings = read_settings(config, **given(home=home, port=port))
    code = asyncio.run(run(settings, say_ready))
    if code:
        raise typer.Exit(code)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: only they win over the environment and the settings file."""
    return {name: value for name, value in options.items() if value is not None}


def say_ready(ready: "Ready") -> None:
    """Print where it answers, with which key, and a line that can be pasted as it is.

    Raises:
        OSError: there is nobody who reads it; nothing more is printed from now on.
    """
    from tokenworks.cli.output import drop_stdout

    try:
        _print_ready(ready)
    except OSError:
        drop_stdout()
        raise


def _print_ready(ready: "Ready") -> None:
    key = _read_key(ready.key_path)
    about_key = f"(the administrator's; kept in {ready.key_path})"
    if not key:
        about_key = f"(to have one made, create an empty file {ready.key_path} and start again)"
    print(f"\ntokenworks answers at {ready.address}")
    print(f"  key:   {key or f'the file {ready.key_path} is gone or cannot be read'}")
    print(f"         {about_key}")
    print(f"  model: {ready.model}\n")
    print("Try it:\n")
    print(curl_line(ready.address, key or "KEY", ready.model))
    print("\nor `.venv/bin/tokenworks chat`, and then `.venv/bin/tokenworks usage --requests`. Ctrl-C stops it.")
    if sys.stdout is not None:  # as it is under `>&-`
        sys.stdout.flush()


def _read_key(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def curl_line(address: str, key: str, model: str) -> str:
    """Return one line for a POSIX shell that asks the model something."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is electricity?"}], "max_tokens": 64}
    headers = (f"Authorization: Bearer {key}", "Content-Type: application/json")
    options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    return f"curl -sS {shlex.quote(f'{address}/v1/chat/completions')} {options} -d {shlex.quote(json.dumps(body))}"
