"""A journal on a real disk, shipped to a control with a real database: each closing that is durable becomes a row."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.integration.metering.conftest import OpenJournal, StalledDisk
from tests.unit.metering.builders import make_closed, make_opened
from tokenworks.kit.db import Database
from tokenworks.metering import service, store
from tokenworks.metering.adapters.disk_journal import DiskJournal
from tokenworks.metering.model import START, Position, PositionConflictError
from tokenworks.metering.tasks import Shipper

NOW_MS = 9_000


class Control:
    """What `/region/v1/journals` does, without HTTP."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self, journal_id: str) -> Position:
        async with self._database.read() as connection:
            return await service.find_position(connection, journal_id)

    async def send(self, journal_id: str, position: Position, content: bytes) -> Position:
        try:
            async with self._database.write() as connection:
                begins = (position.segment, position.offset)
                return await service.ingest(connection, journal_id, *begins, content, NOW_MS)
        except PositionConflictError as error:
            return error.position

    async def put_back(self, journal_id: str, position: Position) -> None:
        async with self._database.write() as connection:
            await store.move_position(connection, journal_id, position, NOW_MS)

    async def rows(self) -> set[str]:
        async with self._database.read() as connection:
            return set((await connection.execute(select(store.usage.c.request_id))).scalars())

    async def set_aside(self) -> int:
        async with self._database.read() as connection:
            return await service.count_set_aside(connection)


@pytest.fixture
def control(database: Database) -> Control:
    return Control(database)


async def no_pause(_: int) -> None:
    raise AssertionError("these tests ship by hand")


def make_shipper(journal: DiskJournal, control: Control) -> Shipper:
    return Shipper(journal, control, interval_ms=10, bytes_max=1_000_000, pause=no_pause)


async def ship_all(shipper: Shipper) -> None:
    while await shipper.ship():
        pass


async def serve(journal: DiskJournal, names: Iterable[str]) -> None:
    for name in names:
        journal.append(make_opened(name))
        journal.append(make_closed(name))
    await journal.flush()


async def serve_segments(journal: DiskJournal, name: str, count: int) -> set[str]:
    """Serve until `count` segments have been left behind."""
    first = journal.durable_end.segment
    served: set[str] = set()
    while journal.durable_end.segment < first + count:
        served.add(f"{name}_{len(served)}")
        await serve(journal, [f"{name}_{len(served) - 1}"])
    return served


async def test_two_rollovers_during_one_flush_lose_nothing(
    open_journal: OpenJournal, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await open_journal()
    shipper = make_shipper(journal, control)
    await serve(journal, ["first"])
    await shipper.ship()
    disk = StalledDisk(monkeypatch)
    closed = {"first"}
    while journal.append(make_closed(f"req_{len(closed)}")) >> 40 < 3:
        closed.add(f"req_{len(closed)}")
        await journal.count_unreadable()  # behind the reservation that is under way
    closed.add(f"req_{len(closed)}")
    assert not await shipper.ship(), "nothing new is durable"
    disk.release()
    await journal.flush()
    await ship_all(shipper)
    assert (await control.rows(), await control.set_aside()) == (closed, 0)


async def test_an_old_folder_that_was_put_back_and_served_before_control_was_reached_loses_nothing(
    open_journal: OpenJournal, control: Control, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await open_journal()
    await serve(journal, ["a"])
    await ship_all(make_shipper(journal, control))
    await journal.close()
    shutil.copytree(tmp_path / "door-0", tmp_path / "copy")
    journal = await open_journal()
    await serve(journal, ["b1", "b2"])
    await ship_all(make_shipper(journal, control))
    journal = await open_journal(tmp_path / "copy")
    await serve(journal, [f"c{number}" for number in range(20)])
    shipper = make_shipper(journal, control)
    with caplog.at_level(logging.ERROR):
        await ship_all(shipper)
    assert "control has more of journal" in caplog.text
    assert await control.rows() == {"a", "b1", "b2", *(f"c{number}" for number in range(20))}
    assert await control.set_aside() == 0


async def test_a_renamed_journal_does_not_miss_what_its_archive_has_no_more(
    open_journal: OpenJournal, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await open_journal(archive_days=0)
    served = await serve_segments(journal, "a", 3)
    await ship_all(make_shipper(journal, control))
    assert journal.segments() == [4], "the rest was shipped and is deleted"
    await journal.close()
    old = journal.journal_id
    journal = await open_journal(archive_days=0)
    await control.put_back(old, Position(99, 0))
    await serve(journal, ["b"])
    await ship_all(make_shipper(journal, control))
    assert journal.journal_id != old
    assert (await control.rows(), await control.set_aside()) == (served | {"b"}, 0)
    assert "are gone" not in caplog.text


async def test_a_restart_is_not_taken_for_an_old_folder(open_journal: OpenJournal, control: Control) -> None:
    names: set[str] = set()
    for number in range(4):
        journal = await open_journal()
        names.add(journal.journal_id)
        if number != 1:
            await serve(journal, [f"r{number}"])
        await ship_all(make_shipper(journal, control))
        await journal.close()
    assert len(names) == 1
    assert await control.rows() == {"r0", "r2", "r3"}


async def test_segments_that_are_gone_are_told_by_shipper_and_control(
    open_journal: OpenJournal, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await open_journal(archive_days=0)
    await serve_segments(journal, "a", 3)
    shipper = make_shipper(journal, control)
    await ship_all(shipper)
    await journal.close()
    await control.put_back(journal.journal_id, START)  # a database from before; the archive is deleted
    journal = await open_journal(archive_days=0)
    await serve(journal, ["b"])
    with caplog.at_level(logging.ERROR):
        await ship_all(make_shipper(journal, control))
    assert "segments 1 to 3 are gone" in caplog.text
    assert "b" in await control.rows()
    assert await control.set_aside() == 1
