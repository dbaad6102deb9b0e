"""`tokenworks usage`: what was used, by request or summed.

With `--requests --json` every request is printed, however many there are: pages are fetched and printed one after the
other, and none is kept.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokenworks.kit.errors import InvalidRequestError

if TYPE_CHECKING:
    from tokenworks.client.client import Client
    from tokenworks.metering.wire import UsageRow, UsageSumRow

By = Literal["key", "project", "model", "day", "hour"]

PAGE_ROWS = 1000
"""Rows asked for at once."""

SHOWN_ROWS = 50
"""Rows of the table, unless `--limit` says otherwise: it is for people."""


@dataclass(frozen=True)
class Filters:
    """Which requests are meant; None is all."""

    organization: str | None
    project: str | None
    key: str | None
    model: str | None
    since_ms: int | None
    until_ms: int | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("usage")(usage)


def usage(  # noqa: PLR0913 - each is an option of the command line, by name
    *,
    requests: Annotated[bool, typer.Option("--requests", help="One row per request, newest first.")] = False,
    by: Annotated[By | None, typer.Option(help="What the sums are by; without it by key.")] = None,
    organization: Annotated[str | None, typer.Option(help="Only of this organization.")] = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    key: Annotated[str | None, typer.Option(help="Only of the key with this id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    since: Annotated[str, typer.Option(help="Only what started since then: 24h, 7d, or a date; UTC.")] = "",
    until: Annotated[str, typer.Option(help="Only what started before then.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many requests, the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what was used: sums, or with --requests one row per request."""
    from tokenworks.cli.connection import open_client
    from tokenworks.cli.times import parse_past

    if requests and by:
        raise InvalidRequestError("--by sums, --requests does not; choose one of them")
    if limit and not requests:
        raise InvalidRequestError("--limit needs --requests; sums are over all that the filters leave")
    filters = Filters(organization, project, key, model, parse_past("--since", since), parse_past("--until", until))
    client = open_client()
    if requests:
        _show_requests(client, filters, limit, as_json=as_json)
    else:
        _show_sums(client, filters, by or "key", as_json=as_json)


def each_request(client: "Client", filters: Filters, page_rows: int = PAGE_ROWS) -> "Iterator[UsageRow]":
    """Yield all requests that the filters leave, newest first, fetching a page when it is needed."""
    from tokenworks.metering.wire import USAGE_REQUESTS, RequestsWanted

    cursor: str | None = None
    while True:
        page = client.call(USAGE_REQUESTS, RequestsWanted(**asdict(filters), limit=page_rows, cursor=cursor))
        yield from page.data
        cursor = page.next_cursor
        if cursor is None:
            return


def _show_requests(client: "Client", filters: Filters, limit: int | None, *, as_json: bool) -> None:
    from tokenworks.cli.output import print_json_array, print_table

    page_rows = min(limit or PAGE_ROWS, PAGE_ROWS)
    if as_json:
        print_json_array(islice(each_request(client, filters, page_rows), limit))
        return
    shown = limit or SHOWN_ROWS
    rows = list(islice(each_request(client, filters, min(shown + 1, PAGE_ROWS)), shown + 1))
    print_table(_REQUEST_COLUMNS, map(_request_cells, rows[:shown]), empty="no request was metered yet")
    if limit is None and len(rows) > shown:
        print(f"\nthese are the newest {shown}; --limit N shows more, --json all")


_REQUEST_COLUMNS = ("STARTED", "REQUEST", "ORGANIZATION", "MODEL", "INPUT", "CACHED", "OUTPUT", "COST", "STATUS")


def _request_cells(row: "UsageRow") -> tuple[object, ...]:
    """What fits a terminal's line; `--json` has the rest."""
    return (
        row.started_at[:19] + "Z",
        row.request_id,
        row.organization,
        row.model,
        row.input_tokens,
        row.cached_input_tokens,
        row.output_tokens,
        show_nano(row.cost_nano, row.currency),
        row.status,
    )


def _show_sums(client: "Client", filters: Filters, by: By, *, as_json: bool) -> None:
    import msgspec

    from tokenworks.cli.output import print_json, print_table
    from tokenworks.metering.wire import USAGE_SUMS, SumsWanted

    wanted = msgspec.convert({"by": by, **asdict(filters)}, SumsWanted)
    rows = client.call(USAGE_SUMS, wanted).data
    if as_json:
        print_json(rows)
        return
    columns = (by.upper(), "ORGANIZATION", "REQUESTS", "INPUT", "CACHED", "OUTPUT", "COST")
    print_table(columns, map(_sum_cells, rows), empty="no request was metered yet")


def _sum_cells(row: "UsageSumRow") -> tuple[object, ...]:
    return (
        row.name,
        row.organization,
        row.requests,
        row.input_tokens,
        row.cached_input_tokens,
        row.output_tokens,
        show_nano(row.cost_nano, row.currency),
    )


def show_nano(nano: int, currency: str) -> str:
    """Return an amount in nano-units as a decimal with its currency, exactly: 1500000 is `0.0015 USD`."""
    whole, rest = divmod(abs(nano), 1_000_000_000)
    decimals = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{'-' if nano < 0 else ''}{whole}{decimals} {currency}".strip()
