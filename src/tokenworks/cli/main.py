"""The `tokenworks` command: joins the nouns, and ends each failure with one plain sentence on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. A traceback means a bug.
"""

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from tokenworks import __version__
from tokenworks.cli import chat, deployments, down, keys, models, orgs, status, up, usage
from tokenworks.cli.output import drop_stdout
from tokenworks.kit.errors import TokenworksError

app = typer.Typer(
    name="tokenworks",
    help="An open AI cloud that you run yourself: open models behind one API, every token metered exactly once.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for noun in (up, down, status, chat, usage):
    noun.register(app)
for group in (keys, orgs, models, deployments):
    app.add_typer(group.app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """What `tokenworks` does without a command: say its version, or how it is used."""
    if version:
        print(f"tokenworks {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit. `arguments` are those after the program's name; None takes the real ones."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, prog_name="tokenworks", standalone_mode=False)
        if sys.stdout is not None:  # as it is under `>&-`
            sys.stdout.flush()
    except TokenworksError as error:
        return _say(error.message, 1)
    except TyperException as error:
        return _say(error.format_message(), error.exit_code)
    except BrokenPipeError:
        drop_stdout()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    if message:  # a noun without a verb was answered by its help and has none
        print(f"tokenworks: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
