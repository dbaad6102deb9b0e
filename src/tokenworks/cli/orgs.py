"""`tokenworks orgs`: organizations, which own projects and keys."""

from typing import Annotated

import typer

app = typer.Typer(name="orgs", help="Organizations, which own projects and keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the new organization.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make an organization, with the project `default` in it."""
    from tokenworks.accounts.wire import ORGANIZATIONS_CREATE, OrganizationCreate
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json

    row = open_client().call(ORGANIZATIONS_CREATE, OrganizationCreate(name=name))
    if as_json:
        print_json(row)
    else:
        print(f"organization {row.name} is made; next: tokenworks keys create --organization {row.name}")


@app.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the organizations."""
    from tokenworks.accounts.wire import ORGANIZATIONS_LIST
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json, print_table, show_time

    rows = open_client().call(ORGANIZATIONS_LIST).data
    if as_json:
        print_json(rows)
        return
    table = ((row.name, show_time(row.created_at_ms)) for row in rows)
    print_table(("NAME", "CREATED"), table, empty="there are no organizations")
