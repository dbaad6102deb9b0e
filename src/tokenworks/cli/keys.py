"""`tokenworks keys`: API keys. A key's text is shown once, when it is made."""

from typing import Annotated

import typer

app = typer.Typer(name="keys", help="API keys of an organization.", no_args_is_help=True)


@app.command("create")
def create(
    organization: Annotated[str, typer.Option(help="Organization that the key belongs to.")] = "default",
    project: Annotated[str, typer.Option(help="Project that its use is counted for.")] = "default",
    scopes: Annotated[
        str, typer.Option(help="Scopes, separated by commas: admin, inference, hub:read, hub:write.")
    ] = "inference,hub:read,hub:write",
    expires: Annotated[str, typer.Option(help="When it ends: 30d, 12h, or a date such as 2030-01-31.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a key and show its text, this once."""
    from tokenworks.accounts.wire import KEYS_CREATE, KeyCreate
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json
    from tokenworks.cli.times import parse_future

    wanted = KeyCreate(
        organization=organization,
        project=project,
        scopes=tuple(scope.strip() for scope in scopes.split(",") if scope.strip()),
        expires_at_ms=parse_future("--expires", expires),
    )
    row = open_client().call(KEYS_CREATE, wanted)
    if as_json:
        print_json(row)
        return
    print(f"key {row.id} of {row.organization}/{row.project}; its text is shown only now:")
    print(row.key)


@app.command("list")
def list_all(
    organization: Annotated[str, typer.Option(help="Only keys of this organization.")] = "",
    project: Annotated[str, typer.Option(help="Only keys of this project.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List keys, revoked and expired ones too; never their texts."""
    from tokenworks.accounts.wire import KEYS_LIST, KeysWanted
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json, print_table, show_time

    wanted = KeysWanted(organization=organization or None, project=project or None)
    rows = open_client().call(KEYS_LIST, wanted).data
    if as_json:
        print_json(rows)
        return
    table = (
        (
            row.id,
            row.organization,
            row.project,
            row.scopes,
            show_time(row.created_at_ms),
            show_time(row.expires_at_ms),
            show_time(row.revoked_at_ms),
        )
        for row in rows
    )
    columns = ("ID", "ORGANIZATION", "PROJECT", "SCOPES", "CREATED", "EXPIRES", "REVOKED")
    print_table(columns, table, empty="there are no keys")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `tokenworks keys list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Stop a key for good. New requests with it are refused within a second; running answers finish."""
    from tokenworks.accounts.wire import KEYS_REVOKE, KeyNamed
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json

    row = open_client().call(KEYS_REVOKE, KeyNamed(key_id=key_id))
    if as_json:
        print_json(row)
    else:
        print(f"key {row.id} is revoked")
