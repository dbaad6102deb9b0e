"""However shipments are cut, repeated and reordered: the rows are those of the journal, each request's once."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tests.unit.metering.builders import make_closed, make_opened, make_progress
from tokenworks.metering import service, store
from tokenworks.metering.journal import encode
from tokenworks.metering.model import Closed, Counts, Position, PositionConflictError, Record

TABLES = [store.usage, store.journal_positions, store.unreadable_records]

lives = st.lists(
    st.builds(
        lambda request_id, tokens: [
            make_opened(request_id),
            make_progress(request_id, tokens // 2),
            make_closed(request_id, counts=Counts(10, 4, tokens)),
        ],
        st.integers(0, 6).map(lambda number: f"req_{number}"),
        st.integers(0, 3),
    ),
    max_size=8,
)


class Control:
    """The real `ingest` on a database in memory."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def ship(self, begins: Position, content: bytes) -> Position:
        try:
            return await service.ingest(self.connection, "j1", begins.segment, begins.offset, content, 9_000)
        except PositionConflictError as error:
            return error.position

    async def rows(self) -> dict[str, int]:
        found = await self.connection.execute(select(store.usage.c.request_id, store.usage.c.output_tokens))
        return {row.request_id: row.output_tokens for row in found}

    async def aside(self) -> int:
        return await service.count_set_aside(self.connection)


def run(case: Any, *arguments: Any) -> None:
    async def body() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.connect() as connection:
            await connection.run_sync(store.usage.metadata.create_all, tables=TABLES)
            await case(Control(connection), *arguments)
        await engine.dispose()

    asyncio.run(body())


def expect(written: list[Record]) -> tuple[dict[str, int], int]:
    """The first closing record of each request is its row; others with other contents are set aside."""
    rows: dict[str, int] = {}
    contradictions = 0
    for record in written:
        if isinstance(record, Closed):
            tokens = record.counts.output_tokens
            contradictions += rows.setdefault(record.request_id, tokens) != tokens
    return rows, contradictions


@settings(max_examples=40, deadline=None)
@given(lives, st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=30))
def test_shipments_in_any_order_and_repetition(requests: list[list[Record]], tries: list[tuple[int, int]]) -> None:
    run(ship_in_disorder, [record for life in requests for record in life], tries)


async def ship_in_disorder(control: Control, written: list[Record], tries: list[tuple[int, int]]) -> None:
    frames = list(map(encode, written))
    ends = [sum(map(len, frames[:number])) for number in range(len(frames) + 1)]
    for start, count in tries:  # old ones, early ones, the same again: only what fits is taken
        first = min(start, len(frames))
        last = min(first + count, len(frames))
        await control.ship(Position(1, ends[first]), b"".join(frames[first:last]))
    position = await service.find_position(control.connection, "j1")
    reached = ends.index(position.offset)
    assert await control.rows() == expect(written[:reached])[0], "a prefix of the journal"
    await control.ship(Position(1, position.offset), b"".join(frames[reached:]))
    assert (await control.rows(), await control.aside()) == expect(written)


@settings(max_examples=40, deadline=None)
@given(lives, st.integers(0, 30))
def test_a_control_that_was_put_back_takes_a_replay_without_a_change(
    requests: list[list[Record]], back_to: int
) -> None:
    run(replay, [record for life in requests for record in life], back_to)


async def replay(control: Control, written: list[Record], back_to: int) -> None:
    frames = list(map(encode, written))
    await control.ship(Position(1, 0), b"".join(frames))
    before = (await control.rows(), await control.aside())
    again = frames[: min(back_to, len(frames))]
    start = sum(map(len, again))
    await store.move_position(control.connection, "j1", Position(1, start), 9_000)
    await control.ship(Position(1, start), b"".join(frames[len(again) :]))
    assert (await control.rows(), await control.aside()) == before
