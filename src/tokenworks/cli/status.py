"""`tokenworks status`: whether everything is well, and if not, why."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenworks.region.wire import Status


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show how tokenworks is. The exit code is 1 while a deployment cannot answer."""
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.output import print_json
    from tokenworks.region.wire import STATUS

    client = open_client()
    seen = client.call(STATUS)
    if as_json:
        print_json(seen)
    else:
        _show(client.url, seen)
    if not seen.is_ready:
        raise typer.Exit(1)


def _show(url: str, seen: "Status") -> None:
    from tokenworks.cli.output import print_table, readable, show_time

    state = "ready" if seen.is_ready else "not ready"
    print(f"tokenworks {readable(seen.version)} at {url} is {state}; up since {show_time(seen.started_at_ms)}\n")
    deployments = (
        (row.name, row.model, row.engine, f"{row.replicas_ready} of {row.replicas_wanted}", row.reason)
        for row in seen.deployments
    )
    print_table(("DEPLOYMENT", "MODEL", "ENGINE", "READY", "REASON"), deployments, empty="nothing is deployed")
    print()
    replicas = (
        (row.id, row.deployment, row.state, show_time(row.since_ms), row.restarts, row.pid, row.reason)
        for row in seen.replicas
    )
    columns = ("REPLICA", "DEPLOYMENT", "STATE", "SINCE", "RESTARTS", "PID", "REASON")
    print_table(columns, replicas, empty="no replica runs")
    print()
    processes = (
        (row.id, row.pid, show_time(row.started_at_ms), "runs" if row.exit_code is None else f"ended: {row.exit_code}")
        for row in seen.processes
    )
    print_table(("PROCESS", "PID", "STARTED", "STATE"), processes, empty="no process is known")
