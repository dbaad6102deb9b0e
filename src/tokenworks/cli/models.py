"""`tokenworks models`: the catalogue of models."""

from typing import Annotated

import typer

app = typer.Typer(name="models", help="The catalogue of models.", no_args_is_help=True)


@app.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the models of the catalogue."""
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json, print_table
    from tokenworks.hub.wire import MODELS_LIST

    rows = open_client().call(MODELS_LIST).data
    if as_json:
        print_json(rows)
        return
    table = (
        (row.name, row.architecture, row.parameters, row.quantisation, row.context_tokens, row.size_bytes, row.licence)
        for row in rows
    )
    columns = ("NAME", "ARCHITECTURE", "PARAMETERS", "QUANTISATION", "CONTEXT", "BYTES", "LICENCE")
    print_table(columns, table, empty="the catalogue is empty")
