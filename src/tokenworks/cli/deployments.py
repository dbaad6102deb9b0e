"""`tokenworks deployments`: which models are served, and whether they can answer."""

from typing import Annotated

import typer

app = typer.Typer(name="deployments", help="Which models are served.", no_args_is_help=True)


@app.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the deployments."""
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json, print_table
    from tokenworks.serving.wire import DEPLOYMENTS_LIST

    rows = open_client().call(DEPLOYMENTS_LIST).data
    if as_json:
        print_json(rows)
        return
    table = (
        (
            row.name,
            row.model,
            row.engine,
            f"{row.replicas_ready} of {row.replicas}",
            row.slots,
            row.context_tokens,
            row.reason,
        )
        for row in rows
    )
    columns = ("NAME", "MODEL", "ENGINE", "READY", "SLOTS", "CONTEXT", "REASON")
    print_table(columns, table, empty="nothing is deployed")
