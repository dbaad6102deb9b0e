"""Tables and queries of metering. Every function works inside the transaction that it is given.

Invariants, held by constraints: one usage row per request; counts within each other and never negative; a row is
inserted once and never changed or deleted. Times are milliseconds since 1970 UTC, money is nano-units of a currency.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    Insert,
    LargeBinary,
    Row,
    Select,
    String,
    Table,
    Text,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.kit.db import metadata
from tokenworks.metering.model import START, JournalStanding, Position, Status, SumBy, UsageFilter

_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_IDS_PER_QUERY = 500

usage = Table(
    "usage",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("client_request_id", Text),
    Column("organization", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("replica_id", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("energy_microjoules", BigInteger),
    Column("energy_source", String(16)),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger, nullable=False),
    CheckConstraint("length(request_id) > 0", name="request_id_given"),
    CheckConstraint("input_tokens >= 0", name="input_tokens_not_negative"),
    CheckConstraint("cached_input_tokens BETWEEN 0 AND input_tokens", name="cached_within_input"),
    CheckConstraint("output_tokens >= 0", name="output_tokens_not_negative"),
    CheckConstraint("cost_nano >= 0", name="cost_not_negative"),
    CheckConstraint("energy_microjoules >= 0", name="energy_not_negative"),
    CheckConstraint("(energy_microjoules IS NULL) = (energy_source IS NULL)", name="energy_has_source"),
    CheckConstraint("energy_source IN ('measured', 'modelled')", name="energy_source_known"),
    CheckConstraint(f"status IN ({', '.join(repr(status.value) for status in Status)})", name="status_known"),
    CheckConstraint("started_at_ms >= 0 AND ended_at_ms >= started_at_ms", name="ended_after_started"),
    Index(None, "started_at_ms", "request_id"),
    Index(None, "organization", "started_at_ms", "request_id"),
    Index(None, "key_id", "started_at_ms", "request_id"),
)
"""One row per request that ended."""

journal_positions = Table(
    "journal_positions",
    metadata,
    Column("journal_id", Text, primary_key=True),
    Column("segment", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("moved_at_ms", BigInteger, nullable=False),
    CheckConstraint('segment >= 0 AND "offset" >= 0', name="not_negative"),
)
"""How far each journal has been taken over. Moves in the transaction of the rows that it stands for."""

unreadable_records = Table(
    "unreadable_records",
    metadata,
    Column("journal_id", Text, primary_key=True),
    Column("segment", BigInteger, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("why", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
"""Set aside until a person has looked: bytes that are no record, and records that contradict a row."""

_INSERTS_OF_NEW: dict[str, Callable[[Table], Insert]] = {
    "sqlite": lambda table: sqlite.insert(table).on_conflict_do_nothing(),
    "postgresql": lambda table: postgresql.insert(table).on_conflict_do_nothing(),
}
"""Per database: insert the rows whose primary key is not there yet."""


async def find_position(connection: AsyncConnection, journal_id: str, *, lock: bool = False) -> Position:
    """Where the journal has been taken over to; `START` for an unknown one. `lock` it against other writers."""
    query = select(journal_positions.c.segment, journal_positions.c.offset).where(
        journal_positions.c.journal_id == journal_id
    )
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return START if row is None else Position(row.segment, row.offset)


async def list_journals(connection: AsyncConnection) -> list[JournalStanding]:
    """All journals, the one that moved last first."""
    query = select(journal_positions).order_by(journal_positions.c.moved_at_ms.desc(), journal_positions.c.journal_id)
    rows = await connection.execute(query)
    return [JournalStanding(row.journal_id, Position(row.segment, row.offset), row.moved_at_ms) for row in rows]


async def move_position(connection: AsyncConnection, journal_id: str, position: Position, now_ms: int) -> None:
    """Take note of how far the journal has been taken over."""
    values = {"segment": position.segment, "offset": position.offset, "moved_at_ms": now_ms}
    moved = await connection.execute(
        update(journal_positions).where(journal_positions.c.journal_id == journal_id).values(values)
    )
    if not moved.rowcount:
        await connection.execute(journal_positions.insert().values(journal_id=journal_id, **values))


async def insert_usage(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> bool:
    """Insert the rows whose request has none yet; whether all of them went in."""
    made = await connection.execute(_INSERTS_OF_NEW[connection.dialect.name](usage), rows)
    return made.rowcount == len(rows)


async def find_usage(connection: AsyncConnection, request_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """The rows of these requests, by id."""
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(request_ids), _IDS_PER_QUERY):
        query = select(usage).where(usage.c.request_id.in_(request_ids[start : start + _IDS_PER_QUERY]))
        found.update({row.request_id: row for row in await connection.execute(query)})
    return found


async def set_aside(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Keep what cannot be counted; a second time changes nothing."""
    await connection.execute(_INSERTS_OF_NEW[connection.dialect.name](unreadable_records), rows)


async def count_set_aside(connection: AsyncConnection) -> int:
    """How much waits for a person."""
    return (await connection.execute(select(func.count()).select_from(unreadable_records))).scalar_one()


async def list_usage(
    connection: AsyncConnection, wanted: UsageFilter, limit: int, after: tuple[int, str] | None, *, newest_first: bool
) -> Sequence[Row[Any]]:
    """At most `limit` rows by start and id, behind the row with the start and id `after`."""
    place = tuple_(usage.c.started_at_ms, usage.c.request_id)
    query = _filtered(select(usage), wanted).limit(limit)
    if newest_first:
        query = query.order_by(usage.c.started_at_ms.desc(), usage.c.request_id.desc())
    else:
        query = query.order_by(usage.c.started_at_ms, usage.c.request_id)
    if after is not None:
        query = query.where(place < after if newest_first else place > after)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def sum_usage(connection: AsyncConnection, by: SumBy, wanted: UsageFilter, limit: int) -> Sequence[Row[Any]]:
    """At most `limit` sums `(organization, name, currency, requests, ...)`; each currency has sums of its own.

    `name` is what it is summed by: an id, a name, or the first millisecond of the hour or day. `organization` is empty
    for names that mean the same in all of them.
    """
    name = _SUM_NAMES[by].label("name")
    groups = (usage.c.organization, name, usage.c.currency) if by in _OWNED else (name, usage.c.currency)
    organization = usage.c.organization if by in _OWNED else literal("").label("organization")
    query = select(
        organization,
        name,
        usage.c.currency,
        func.count().label("requests"),
        func.sum(usage.c.input_tokens).label("input_tokens"),
        func.sum(usage.c.cached_input_tokens).label("cached_input_tokens"),
        func.sum(usage.c.output_tokens).label("output_tokens"),
        func.sum(usage.c.cost_nano).label("cost_nano"),
        func.sum(usage.c.energy_microjoules).label("energy_microjoules"),
    )
    query = _filtered(query, wanted).group_by(*groups).order_by(*groups).limit(limit)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


_SUM_NAMES: dict[SumBy, ColumnElement[Any]] = {
    SumBy.KEY: usage.c.key_id,
    SumBy.PROJECT: usage.c.project,
    SumBy.MODEL: usage.c.model,
    SumBy.DAY: usage.c.started_at_ms // _DAY_MS * _DAY_MS,
    SumBy.HOUR: usage.c.started_at_ms // _HOUR_MS * _HOUR_MS,
}


_OWNED = (SumBy.KEY, SumBy.PROJECT)
"""Sums that belong to one organization each."""


def _filtered(query: Select[Any], wanted: UsageFilter) -> Select[Any]:
    for name in ("organization", "project", "key_id", "model"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(usage.c[name] == value)
    if wanted.since_ms is not None:
        query = query.where(usage.c.started_at_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        query = query.where(usage.c.started_at_ms < wanted.until_ms)
    return query
