"""Taking over shipments, and asking for usage, on a real database."""

from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from tests.unit.metering.builders import make_closed, make_opened, make_progress
from tokenworks.kit.db import Database
from tokenworks.kit.errors import InvalidRequestError
from tokenworks.metering import service, store
from tokenworks.metering.journal import encode
from tokenworks.metering.model import (
    START,
    Closed,
    Counts,
    Position,
    PositionConflictError,
    Record,
    SumBy,
    UsageFilter,
)

NOW_MS = 7_000
HOUR_MS = 3_600_000


def frames(*records: Record) -> bytes:
    return b"".join(encode(record) for record in records)


async def ship(database: Database, data: bytes, segment: int = 1, offset: int = 0, journal: str = "j1") -> Position:
    async with database.write() as connection:
        return await service.ingest(connection, journal, segment, offset, data, NOW_MS)


async def read_usage(database: Database) -> dict[str, Any]:
    async with database.read() as connection:
        found, _ = await service.list_requests(connection, UsageFilter(), 1000, None, newest_first=False)
    return {usage.request_id: usage for usage in found}


async def read_aside(database: Database) -> list[tuple[str, int, int, bytes, str]]:
    async with database.read() as connection:
        rows = (await connection.execute(select(store.unreadable_records))).all()
        assert await service.count_set_aside(connection) == len(rows)
    assert all(row.at_ms == NOW_MS for row in rows)
    return [(row.journal_id, row.segment, row.offset, row.content, row.why) for row in rows]


async def test_a_shipment_becomes_rows_and_moves_the_position(database: Database) -> None:
    data = frames(make_opened("a"), make_progress("a"), make_closed("a"), make_opened("b"))
    assert await ship(database, data) == Position(1, len(data))
    async with database.read() as connection:
        assert await service.find_position(connection, "j1") == Position(1, len(data))
        assert await service.find_position(connection, "other") == START
    usage = (await read_usage(database))["a"]
    assert (usage.counts, usage.status, usage.replica_id) == (Counts(10, 4, 20), "completed", "rep_1")
    assert (usage.cost_nano, usage.currency, usage.energy_microjoules, usage.energy_source) == (0, "USD", None, None)
    assert await read_aside(database) == []


async def test_journals_are_listed_with_their_positions_the_last_moved_first(database: Database) -> None:
    await ship(database, frames(make_closed("a")), journal="j2")
    await ship(database, b"", journal="j1")
    async with database.write() as connection:
        await store.move_position(connection, "j3", Position(4, 5), NOW_MS + 1)
        listed = await service.list_journals(connection)
    size = len(frames(make_closed("a")))
    assert [(each.journal_id, each.position, each.moved_at_ms) for each in listed] == [
        ("j3", Position(4, 5), NOW_MS + 1),
        ("j1", Position(1, 0), NOW_MS),
        ("j2", Position(1, size), NOW_MS),
    ]


async def test_shipments_follow_each_other(database: Database) -> None:
    first, second = frames(make_closed("a")), frames(make_closed("b"))
    await ship(database, first)
    await ship(database, second, offset=len(first))
    await ship(database, frames(make_closed("c")), segment=2)
    await ship(database, frames(make_closed("d")), segment=3)
    assert set(await read_usage(database)) == {"a", "b", "c", "d"}
    assert await read_aside(database) == []


@pytest.mark.parametrize(
    ("stands", "segment", "expected"),
    [
        (None, 2, (1, "segments 1 to 1 are gone: nothing came behind 0-0")),
        (1, 3, (2, "segments 2 to 2 are gone: nothing came behind 1-7")),
        (4, 9, (5, "segments 5 to 8 are gone: nothing came behind 4-7")),
    ],
)
async def test_segments_that_are_passed_over_are_told_once(
    database: Database, stands: int | None, segment: int, expected: tuple[int, str]
) -> None:
    if stands is not None:
        async with database.write() as connection:
            await store.move_position(connection, "j1", Position(stands, 7), NOW_MS)
    data = frames(make_closed("a")) + b"damage" + frames(make_closed("b"))
    await ship(database, data, segment)
    await ship(database, frames(make_closed("c")), segment, len(data))
    await ship(database, frames(make_closed("d")), segment + 1)
    assert set(await read_usage(database)) == {"a", "b", "c", "d"}
    gone, damaged = sorted(await read_aside(database))
    assert gone == ("j1", expected[0], 0, b"", expected[1])
    assert damaged[1:4] == (segment, len(frames(make_closed("a"))), b"damage")


async def test_an_empty_shipment_passes_over_what_need_not_come(database: Database) -> None:
    assert await ship(database, b"", segment=5) == Position(5, 0)
    await ship(database, frames(make_closed("a")), segment=5)
    assert await read_aside(database) == []


@pytest.mark.parametrize(("segment", "offset"), [(1, 0), (1, 1), (1, 10_000), (0, 0), (2, 1)])
async def test_a_shipment_from_elsewhere_is_refused_and_told_where_to_begin(
    database: Database, segment: int, offset: int
) -> None:
    first = frames(make_closed("a"))
    await ship(database, first)
    with pytest.raises(PositionConflictError, match=f"begins at {segment}-{offset}") as caught:
        await ship(database, frames(make_closed("b")), segment, offset)
    assert caught.value.position == Position(1, len(first))
    assert set(await read_usage(database)) == {"a"}


async def test_a_replay_changes_nothing(database: Database) -> None:
    data = frames(make_closed("a"), make_closed("b"))
    await ship(database, data)
    before = await read_usage(database)
    await ship(database, data, journal="j2")
    await ship(database, frames(make_closed("c"), make_closed("a")), journal="j3")
    after = await read_usage(database)
    assert after == before | {"c": after["c"]}
    assert await read_aside(database) == []


async def test_a_price_that_was_set_meanwhile_does_not_make_a_replay_a_contradiction(database: Database) -> None:
    async with database.write() as connection:
        row = service._to_row(make_closed("a")) | {"cost_nano": 7, "energy_microjoules": 9, "energy_source": "measured"}
        await connection.execute(insert(store.usage).values(row))
    await ship(database, frames(make_closed("a")))
    assert await read_aside(database) == []
    assert (await read_usage(database))["a"].cost_nano == 7


async def test_other_contents_under_the_same_id_are_set_aside_and_the_row_stays(database: Database) -> None:
    await ship(database, frames(make_closed("a")))
    other = make_closed("a", counts=Counts(10, 4, 99), reason="?")
    data = frames(make_closed("b"), other, make_closed("c"))
    await ship(database, data, journal="j2")
    assert (await read_usage(database))["a"].counts.output_tokens == 20
    assert set(await read_usage(database)) == {"a", "b", "c"}, "its batch commits"
    why = "'a' has a row already that differs in output_tokens, reason"
    assert await read_aside(database) == [("j2", 1, len(frames(make_closed("b"))), frames(other), why)]


async def test_a_contradiction_inside_one_shipment(database: Database) -> None:
    await ship(database, frames(make_closed("a"), make_closed("a", model="other")))
    assert (await read_usage(database))["a"].model == "smollm2-135m-instruct"
    assert [aside[4] for aside in await read_aside(database)] == ["'a' has a row already that differs in model"]


async def test_bytes_that_cannot_be_read_are_set_aside_and_their_batch_commits(database: Database) -> None:
    before, after = frames(make_closed("a")), frames(make_closed("b"))
    assert await ship(database, before + b"damage" + after) == Position(1, len(before + b"damage" + after))
    assert set(await read_usage(database)) == {"a", "b"}
    expected = ("j1", 1, len(before), b"damage", "the bytes are damaged: no checksum matches")
    assert await read_aside(database) == [expected]


async def test_a_shipment_of_damage_alone_is_passed(database: Database) -> None:
    assert await ship(database, b"damage") == Position(1, 6)
    assert await read_aside(database) == [("j1", 1, 0, b"damage", "the bytes are damaged: no checksum matches")]
    await ship(database, frames(make_closed("a")), offset=6)
    assert set(await read_usage(database)) == {"a"}


async def test_a_cut_tail_is_asked_for_again(database: Database) -> None:
    first, second = frames(make_closed("a")), frames(make_closed("b"))
    assert await ship(database, first + second[:-1]) == Position(1, len(first))
    await ship(database, second, offset=len(first))
    assert set(await read_usage(database)) == {"a", "b"}
    assert await read_aside(database) == []


async def test_an_empty_shipment_moves_nothing(database: Database) -> None:
    assert await ship(database, b"") == Position(1, 0)
    assert await read_aside(database) == []


@pytest.mark.parametrize(
    "record",
    [make_closed("a", counts=Counts(1, 2, 3)), make_closed(""), make_closed("a\0"), make_opened("", started_at_ms=1)],
)
async def test_unsound_records_are_set_aside(database: Database, record: Record) -> None:
    await ship(database, frames(record, make_closed("b")))
    assert set(await read_usage(database)) == {"b"}
    assert [(aside[2], aside[3]) for aside in await read_aside(database)] == [(0, frames(record))]


async def test_what_was_set_aside_is_kept_once(database: Database) -> None:
    await ship(database, b"damage")
    async with database.write() as connection:
        await store.move_position(connection, "j1", Position(1, 0), NOW_MS)
    await ship(database, b"damage")
    assert len(await read_aside(database)) == 1


async def test_a_transaction_that_fails_leaves_neither_rows_nor_position(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.write() as connection:
            await service.ingest(connection, "j1", 1, 0, frames(make_closed("a")), NOW_MS)
            raise RuntimeError("control dies here")
    assert await read_usage(database) == {}
    assert await ship(database, frames(make_closed("a")))


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": ""},
        {"input_tokens": -1, "cached_input_tokens": -1},
        {"cached_input_tokens": 11},
        {"cached_input_tokens": -1},
        {"output_tokens": -1},
        {"cost_nano": -1},
        {"energy_microjoules": -1, "energy_source": "measured"},
        {"energy_microjoules": 5},
        {"energy_source": "measured"},
        {"energy_microjoules": 5, "energy_source": "guessed"},
        {"status": "done"},
        {"ended_at_ms": 999},
        {"started_at_ms": -1},
        {"currency": None},
    ],
    ids=str,
)
async def test_the_database_refuses_what_breaks_an_invariant(database: Database, changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        async with database.write() as connection:
            await connection.execute(insert(store.usage).values(service._to_row(make_closed("a")) | changes))


def some_usage() -> Iterable[Closed]:
    """Twelve requests of two organizations, two projects, two keys and two models, twenty minutes apart."""
    for number in range(12):
        yield make_closed(
            f"req_{number:02d}",
            organization=("acme", "beta")[number % 2],
            project=("default", "lab")[number // 2 % 2],
            key_id=f"key_{number % 2}",
            model=("small", "large")[number // 6],
            started_at_ms=number * HOUR_MS // 3,
            ended_at_ms=12 * HOUR_MS,
            counts=Counts(10, 4, number),
        )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (UsageFilter(), range(12)),
        (UsageFilter(organization="acme"), range(0, 12, 2)),
        (UsageFilter(organization="acme", project="lab"), [2, 6, 10]),
        (UsageFilter(key_id="key_1"), range(1, 12, 2)),
        (UsageFilter(model="large"), range(6, 12)),
        (UsageFilter(since_ms=HOUR_MS), range(3, 12)),
        (UsageFilter(until_ms=HOUR_MS), range(3)),
        (UsageFilter(since_ms=HOUR_MS, until_ms=2 * HOUR_MS, organization="beta"), [3, 5]),
        (UsageFilter(organization="nobody"), []),
    ],
    ids=repr,
)
async def test_requests_are_filtered_and_paged_in_both_orders(
    database: Database, wanted: UsageFilter, expected: Iterable[int]
) -> None:
    await ship(database, frames(*some_usage()))
    names = [f"req_{number:02d}" for number in expected]
    for newest_first in (False, True):
        for limit in (1, 5, 1000):
            found: list[str] = []
            cursor: str | None = None
            while True:
                async with database.read() as connection:
                    page, cursor = await service.list_requests(
                        connection, wanted, limit, cursor, newest_first=newest_first
                    )
                found += [usage.request_id for usage in page]
                assert len(page) <= limit
                if cursor is None:
                    break
            assert found == (names[::-1] if newest_first else names)


async def test_requests_of_one_moment_are_paged_by_id(database: Database) -> None:
    await ship(database, frames(*(make_closed(f"req-{number}") for number in range(5))))
    async with database.read() as connection:
        page, cursor = await service.list_requests(connection, UsageFilter(), 3, None, newest_first=True)
        rest, end = await service.list_requests(connection, UsageFilter(), 3, cursor, newest_first=True)
    assert [usage.request_id for usage in page + rest] == ["req-4", "req-3", "req-2", "req-1", "req-0"]
    assert end is None


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_limits_that_cannot_be(database: Database, limit: int) -> None:
    async with database.read() as connection:
        with pytest.raises(InvalidRequestError, match="it must be 1 to 1000") as caught:
            await service.list_requests(connection, UsageFilter(), limit, None, newest_first=True)
    assert caught.value.param == "limit"


@pytest.mark.parametrize("cursor", ["", "x", "12", "-req", "x-req", "9999999999999999999-req", "٣²-req"])
async def test_cursors_that_cannot_be(database: Database, cursor: str) -> None:
    async with database.read() as connection:
        with pytest.raises(InvalidRequestError, match="is no cursor of this list") as caught:
            await service.list_requests(connection, UsageFilter(), 10, cursor, newest_first=True)
    assert caught.value.param == "cursor"


@pytest.mark.parametrize(
    ("by", "wanted", "expected"),
    [
        (SumBy.KEY, UsageFilter(), [("acme", "key_0", 6, 30), ("beta", "key_1", 6, 36)]),
        (SumBy.PROJECT, UsageFilter(organization="acme"), [("acme", "default", 3, 12), ("acme", "lab", 3, 18)]),
        (SumBy.MODEL, UsageFilter(), [("", "large", 6, 51), ("", "small", 6, 15)]),
        (SumBy.DAY, UsageFilter(), [("", 0, 12, 66)]),
        (SumBy.HOUR, UsageFilter(since_ms=HOUR_MS), [("", n * HOUR_MS, 3, 9 * n + 3) for n in (1, 2, 3)]),
        (SumBy.KEY, UsageFilter(organization="nobody"), []),
    ],
    ids=repr,
)
async def test_sums(database: Database, by: SumBy, wanted: UsageFilter, expected: list[tuple[Any, ...]]) -> None:
    await ship(database, frames(*some_usage()))
    async with database.read() as connection:
        sums = await service.sum_usage(connection, by, wanted)
    assert [(found.organization, found.name, found.requests, found.counts.output_tokens) for found in sums] == expected
    for found in sums:
        assert found.counts.input_tokens == 10 * found.requests
        assert found.counts.cached_input_tokens == 4 * found.requests
        assert (found.cost_nano, found.currency, found.energy_microjoules) == (0, "USD", None)


async def test_sums_of_energy_and_money(database: Database) -> None:
    priced = {"cost_nano": 3, "energy_microjoules": 5, "energy_source": "modelled"}
    rows = [service._to_row(make_closed(f"req_{number}")) | (priced if number else {}) for number in range(3)]
    rows.append(service._to_row(make_closed("req_eur")) | {"currency": "EUR", "cost_nano": 9})
    async with database.write() as connection:
        await connection.execute(insert(store.usage), rows)
        sums = await service.sum_usage(connection, SumBy.KEY, UsageFilter())
    assert [(found.currency, found.cost_nano, found.energy_microjoules, found.requests) for found in sums] == [
        ("EUR", 9, None, 1),
        ("USD", 6, 10, 3),
    ]


async def test_too_many_sums_are_not_cut_in_silence(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SUMS_MAX", 3)
    await ship(database, frames(*some_usage()))
    async with database.read() as connection:
        with pytest.raises(InvalidRequestError, match="more than 3 sums by hour; narrow them"):
            await service.sum_usage(connection, SumBy.HOUR, UsageFilter())


async def test_many_replays_are_compared_in_parts(database: Database) -> None:
    data = frames(*(make_closed(f"req_{number}") for number in range(1200)))
    await ship(database, data)
    await ship(database, data, journal="j2")
    assert await read_aside(database) == []
