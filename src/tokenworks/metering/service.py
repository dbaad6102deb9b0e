"""Use cases of metering in control. Each works inside the transaction that it is given and never commits.

Invariants: a shipment's rows and the journal's new position are one transaction; a request has one row, whatever is
shipped again; what cannot be counted is set aside with its bytes and never stops what comes behind it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.kit.errors import InvalidRequestError
from tokenworks.metering import journal, policy, store
from tokenworks.metering.model import (
    Closed,
    Counts,
    JournalStanding,
    Position,
    PositionConflictError,
    Status,
    SumBy,
    Usage,
    UsageFilter,
    UsageSum,
)

PAGE_ROWS_MAX = 1000
SUMS_MAX = 10_000

CURRENCY = "USD"
"""Until tariffs exist, everything costs nothing, in this currency."""


async def find_position(connection: AsyncConnection, journal_id: str) -> Position:
    """Where the journal has been taken over to; `START` for an unknown one."""
    return await store.find_position(connection, journal_id)


async def list_journals(connection: AsyncConnection) -> list[JournalStanding]:
    """How far each journal has been taken over, the one that moved last first."""
    return await store.list_journals(connection)


async def ingest(
    connection: AsyncConnection, journal_id: str, segment: int, offset: int, data: bytes, now_ms: int
) -> Position:
    """Take over a shipment of a journal; return where the next one begins.

    Segments are shipped without a gap: one that is passed over is gone, and a row tells a person. An empty shipment
    passes over what need not come, because control had it under the journal's earlier name.

    Raises:
        PositionConflictError: it does not begin where the journal stands (or at the beginning of a later segment).
    """
    stands = await store.find_position(connection, journal_id, lock=True)
    begins = Position(segment, offset)
    if begins != stands and not (segment > stands.segment and offset == 0):
        raise PositionConflictError(
            f"the shipment begins at {segment}-{offset}, journal {journal_id} stands at "
            f"{stands.segment}-{stands.offset}; go on from there",
            stands,
        )
    found = journal.scan(data)
    closed, aside = _separate(found, data)
    aside += await _insert(connection, closed)
    place = {"journal_id": journal_id, "segment": segment, "at_ms": now_ms}
    rows = [
        place | {"offset": offset + entry.offset, "content": data[entry.offset : entry.end], "why": entry.why}
        for entry in aside
    ]
    if data and segment > stands.segment + 1:
        first = stands.segment + 1
        gone = f"segments {first} to {segment - 1} are gone: nothing came behind {stands.segment}-{stands.offset}"
        rows.append(place | {"segment": first, "offset": 0, "content": b"", "why": gone})
    if rows:
        await store.set_aside(connection, rows)
    reached = Position(segment, offset + (found.end or len(data)))
    await store.move_position(connection, journal_id, reached, now_ms)
    return reached


async def count_set_aside(connection: AsyncConnection) -> int:
    """How many records and damaged stretches wait for a person; the books balance only at 0."""
    return await store.count_set_aside(connection)


async def list_requests(
    connection: AsyncConnection, wanted: UsageFilter, limit: int, cursor: str | None, *, newest_first: bool
) -> tuple[list[Usage], str | None]:
    """A page of usage by start, and the cursor of the next page if there is more.

    Raises:
        InvalidRequestError: limit or cursor cannot be.
    """
    if not 1 <= limit <= PAGE_ROWS_MAX:
        raise InvalidRequestError(f"limit is {limit}, it must be 1 to {PAGE_ROWS_MAX}", param="limit")
    after = None if cursor is None else _parse_cursor(cursor)
    rows = await store.list_usage(connection, wanted, limit + 1, after, newest_first=newest_first)
    page = [_to_usage(row) for row in rows[:limit]]
    return page, f"{page[-1].started_at_ms}-{page[-1].request_id}" if len(rows) > limit else None


async def sum_usage(connection: AsyncConnection, by: SumBy, wanted: UsageFilter) -> list[UsageSum]:
    """Sums, by name or time.

    Raises:
        InvalidRequestError: there are more than `SUMS_MAX`.
    """
    rows = await store.sum_usage(connection, by, wanted, SUMS_MAX + 1)
    if len(rows) > SUMS_MAX:
        raise InvalidRequestError(
            f"there are more than {SUMS_MAX} sums by {by.value}; narrow them with since_ms and until_ms", param="by"
        )
    return [_to_sum(row) for row in rows]


def _separate(found: journal.Scan, data: bytes) -> tuple[list[tuple[journal.Entry, Closed]], list[journal.Entry]]:
    """What becomes rows, and what is set aside. Opened and progress are control's business only if they are unsound."""
    closed: list[tuple[journal.Entry, Closed]] = []
    aside: list[journal.Entry] = []
    if not found.end and data:
        aside.append(journal.Entry(0, len(data), None, "the bytes are damaged: no checksum matches"))
    for entry in found.entries:
        why = entry.why if entry.record is None else policy.find_fault(entry.record)
        if why:
            aside.append(journal.Entry(entry.offset, entry.end, None, why))
        elif isinstance(entry.record, Closed):
            closed.append((entry, entry.record))
    return closed, aside


async def _insert(connection: AsyncConnection, closed: Sequence[tuple[journal.Entry, Closed]]) -> list[journal.Entry]:
    """Make rows; return those that contradict a row that was there, which stays as it is."""
    rows = [_to_row(record) for _, record in closed]
    if not rows or await store.insert_usage(connection, rows):
        return []
    there = await store.find_usage(connection, [row["request_id"] for row in rows])
    aside = []
    for (entry, record), row in zip(closed, rows, strict=True):
        kept = there[record.request_id]
        differing = [name for name, value in row.items() if name not in _PRICED and getattr(kept, name) != value]
        if differing:
            why = f"{record.request_id!r} has a row already that differs in {', '.join(differing)}"
            aside.append(journal.Entry(entry.offset, entry.end, None, why))
    return aside


_PRICED = frozenset({"cost_nano", "currency", "energy_microjoules", "energy_source"})
"""What control adds to a row; a replay may come after a change of tariff."""


def _to_row(closed: Closed) -> dict[str, Any]:
    return {
        "request_id": closed.request_id,
        "client_request_id": closed.client_request_id,
        "organization": closed.organization,
        "project": closed.project,
        "key_id": closed.key_id,
        "model": closed.model,
        "replica_id": closed.replica_id,
        "input_tokens": closed.counts.input_tokens,
        "cached_input_tokens": closed.counts.cached_input_tokens,
        "output_tokens": closed.counts.output_tokens,
        "cost_nano": 0,
        "currency": CURRENCY,
        "energy_microjoules": None,
        "energy_source": None,
        "status": closed.status.value,
        "reason": closed.reason,
        "started_at_ms": closed.started_at_ms,
        "ended_at_ms": closed.ended_at_ms,
    }


def _to_usage(row: Row[Any]) -> Usage:
    return Usage(
        request_id=row.request_id,
        client_request_id=row.client_request_id,
        organization=row.organization,
        project=row.project,
        key_id=row.key_id,
        model=row.model,
        replica_id=row.replica_id,
        counts=Counts(row.input_tokens, row.cached_input_tokens, row.output_tokens),
        cost_nano=row.cost_nano,
        currency=row.currency,
        energy_microjoules=row.energy_microjoules,
        energy_source=row.energy_source,
        status=Status(row.status),
        reason=row.reason,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
    )


def _to_sum(row: Row[Any]) -> UsageSum:
    # PostgreSQL sums BIGINT as NUMERIC.
    return UsageSum(
        name=row.name,
        organization=row.organization,
        currency=row.currency,
        requests=row.requests,
        counts=Counts(int(row.input_tokens), int(row.cached_input_tokens), int(row.output_tokens)),
        cost_nano=int(row.cost_nano),
        energy_microjoules=None if row.energy_microjoules is None else int(row.energy_microjoules),
    )


def _parse_cursor(cursor: str) -> tuple[int, str]:
    started_at_ms, dash, request_id = cursor.partition("-")
    if not dash or not started_at_ms.isdecimal() or len(started_at_ms) > len(str(policy.TIME_MS_MAX)):
        raise InvalidRequestError(f"{cursor[:80]!r} is no cursor of this list", param="cursor")
    return int(started_at_ms), request_id
