"""What `/admin/v1/usage` says, and how journals are shipped to control; `client` executes the calls."""

import msgspec

from tokenworks.client.call import Call
from tokenworks.metering.model import SumBy


class RequestsWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which requests to list: those that started in `[since_ms, until_ms)`, a page at a time.

    Without `organization` all that the key may see; `order` is `newest` or `oldest` first.
    """

    organization: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    order: str = "newest"
    limit: int = 100
    cursor: str | None = None


class UsageRow(msgspec.Struct, frozen=True):
    """What one request used. Times are RFC 3339 in UTC with milliseconds."""

    request_id: str
    client_request_id: str | None
    organization: str
    project: str
    key_id: str
    model: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_nano: int
    currency: str
    energy_microjoules: int | None
    energy_source: str | None
    status: str
    reason: str
    started_at: str
    ended_at: str


class UsagePage(msgspec.Struct, frozen=True):
    """Some of the requests, and the `cursor` that asks for the next ones; null behind the last."""

    data: list[UsageRow]
    next_cursor: str | None


class SumsWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to sum by, and over which requests."""

    by: SumBy = SumBy.KEY
    organization: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class UsageSumRow(msgspec.Struct, frozen=True):
    """The sum over some requests in one currency."""

    by: str
    name: str
    """The key's id, the project, the model, or the beginning of the day or hour as RFC 3339."""
    organization: str | None
    """Of a key or a project."""
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_nano: int
    currency: str
    energy_microjoules: int | None
    """Over those requests that have a figure; null if none has."""


class UsageSums(msgspec.Struct, frozen=True):
    """Sums, by name or time."""

    data: list[UsageSumRow]


class JournalPosition(msgspec.Struct, frozen=True):
    """`GET /region/v1/journals/{journal_id}`: where control stands in it."""

    segment: int
    offset: int


class JournalReached(msgspec.Struct, frozen=True):
    """`POST /region/v1/journals/{journal_id}/{segment}?offset=N`: where the next shipment begins (200 and 409)."""

    segment: int
    next_offset: int


USAGE_REQUESTS = Call("GET", "/admin/v1/usage/requests", RequestsWanted, UsagePage)
USAGE_SUMS = Call("GET", "/admin/v1/usage", SumsWanted, UsageSums)
