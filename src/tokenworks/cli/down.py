"""`tokenworks down`: stop the tokenworks of a home."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("down")(down)


def down(
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML) that `up` was given.")] = None,
    home: Annotated[Path | None, typer.Option(help="Home to stop; wins over TOKENWORKS_HOME.")] = None,
) -> None:
    """Stop the tokenworks that runs on the home, and wait until it is gone. Answers in flight finish first."""
    from tokenworks.cli.up import given
    from tokenworks.kit.config import read_settings
    from tokenworks.server.supervisor import stop

    settings = read_settings(config, **given(home=home))
    if stop(settings):
        print("tokenworks has stopped")
    else:
        print(f"no tokenworks runs on the home {settings.home}")
