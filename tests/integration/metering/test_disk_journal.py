"""The journal on a real disk: what is called durable is there, over rollovers, restarts and failures."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.metering.conftest import OpenJournal, StalledDisk
from tests.unit.metering.builders import make_closed, make_opened, make_progress
from tokenworks.kit import files as kit_files
from tokenworks.kit.errors import StartError, StorageFullError, UnavailableError
from tokenworks.metering import journal as journal_format
from tokenworks.metering.adapters import disk_journal, segments
from tokenworks.metering.adapters.disk_journal import DiskJournal
from tokenworks.metering.model import Closed, Opened, Position, Record


async def read_all(journal: DiskJournal, limit: int = 1_000_000) -> list[Record]:
    """Read every durable record, as a shipper does."""
    records: list[Record] = []
    for number in journal.segments():
        offset = 0
        while content := await journal.read_durable(number, offset, limit):
            found = journal_format.scan(content)
            assert found.end == len(content)
            records += [entry.record for entry in found.entries if entry.record is not None]
            offset += len(content)
    return records


async def fill_segments(journal: DiskJournal, count: int) -> list[Record]:
    """Append whole requests until `count` segments have been left behind."""
    written: list[Record] = []
    first = journal.durable_end.segment
    while journal.durable_end.segment < first + count:
        for record in (make_opened(f"req_{len(written)}"), make_closed(f"req_{len(written)}")):
            journal.append(record)
            written.append(record)
        await journal.flush()
    return written


async def test_what_is_appended_becomes_durable_and_is_read_in_order(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    before = journal.durable_position
    records: list[Record] = [make_opened(), make_progress(), make_closed()]
    positions = [journal.append(record) for record in records]
    assert before < positions[0] < positions[1] < positions[2]
    assert journal.durable_position == before, "not before the flush"
    assert await read_all(journal) == []
    await journal.flush()
    assert journal.durable_position == positions[2]
    assert await read_all(journal) == records
    assert await read_all(journal, limit=1) == records, "a limit below a record's size still moves on"


async def test_callbacks_come_in_order_after_durability_and_once(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    called: list[tuple[int, bool, BaseException | None]] = []

    def note(number: int, position: int) -> None:
        journal.when_durable(
            position, lambda error: called.append((number, journal.durable_position >= position, error))
        )

    first = journal.append(make_opened("a"))
    note(1, first)
    await asyncio.sleep(0)  # the flush of the first begins
    second = journal.append(make_opened("b"))
    note(2, second)
    note(3, first)
    assert called == []
    await journal.flush()
    assert sorted(called) == [(1, True, None), (2, True, None), (3, True, None)]
    assert called.index((3, True, None)) < called.index((2, True, None)), "3 waited for the first flush only"
    note(4, first)
    assert called[-1] == (4, True, None), "at once, since it is durable already"


async def test_appends_during_a_flush_share_the_next_one(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    real = segments.sync_data

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(disk_journal, "sync_data", sync)
    journal = await open_journal()
    journal.append(make_opened("first"))
    await asyncio.sleep(0)
    for number in range(100):
        journal.append(make_opened(f"req_{number}"))
    await journal.flush()
    assert len(syncs) == 2


async def test_a_callback_that_fails_does_not_keep_others_waiting(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail(_: BaseException | None) -> None:
        raise ValueError("a bug")

    journal.when_durable(journal.append(make_opened()), fail)
    await journal.flush()
    assert [str(context["exception"]) for context in reported] == ["a bug"]


async def test_a_cancelled_flush_is_harmless(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    journal.append(make_opened())
    waiting = asyncio.create_task(journal.flush())
    await asyncio.sleep(0)
    waiting.cancel()
    await journal.flush()
    assert waiting.cancelled()
    assert await read_all(journal) == [make_opened()]


async def test_records_go_over_to_the_next_segment_whole(open_journal: OpenJournal, tmp_path: Path) -> None:
    journal = await open_journal()
    written = await fill_segments(journal, 3)
    assert await read_all(journal) == written
    assert await read_all(journal, limit=10_000) == written
    assert journal.segments() == [1, 2, 3, 4]
    assert journal.find_next_segment(0) == 1
    assert journal.find_next_segment(3) == 4
    assert journal.find_next_segment(4) is None
    sizes = {path.stat().st_size for path in (tmp_path / "door-0").glob("*.twj")}
    assert sizes == {65_536}, "all of them reserved before use"


async def test_one_flush_may_span_segments(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    written: list[Record] = []
    while journal.append(make_closed(f"req_{len(written)}")) >> 40 == 1:
        written.append(make_closed(f"req_{len(written)}"))
    written.append(make_closed(f"req_{len(written)}"))
    await journal.flush()
    assert journal.durable_end.segment == 2
    assert await read_all(journal) == written


async def test_reading_behind_what_is_durable_finds_nothing(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    journal.append(make_opened())
    await journal.flush()
    end = journal.durable_end
    assert await journal.read_durable(end.segment, end.offset, 100) == b""
    assert await journal.read_durable(end.segment + 1, 0, 100) == b""
    assert await journal.read_durable(0, 0, 100) == b""


async def test_waiting_for_growth(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    waiting = asyncio.create_task(journal.wait_grown(journal.durable_end))
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.append(make_opened())
    await waiting
    assert journal.durable_end > Position(1, 0)
    await journal.wait_grown(Position(1, 0))


async def test_a_second_owner_is_refused_in_a_sentence(open_journal: OpenJournal, tmp_path: Path) -> None:
    first = await open_journal()
    with pytest.raises(StartError, match="door-0 is used by another process; stop it first"):
        await open_journal()
    await first.close()
    again = await open_journal()
    assert again.journal_id == first.journal_id


async def test_a_read_only_folder_is_told_in_a_sentence(open_journal: OpenJournal, read_only_folder: Path) -> None:
    with pytest.raises(StartError, match="cannot write .*read-only or belongs to another user"):
        await open_journal(read_only_folder / "door-0")


async def test_close_makes_everything_durable_and_is_the_end(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    journal.append(make_opened())
    await journal.close()
    await journal.close()
    with pytest.raises(UnavailableError, match="is closed"):
        journal.append(make_closed())
    again = await open_journal()
    assert isinstance((await read_all(again))[0], Opened)


async def test_a_clean_restart_uses_the_segment_that_was_reserved(open_journal: OpenJournal, tmp_path: Path) -> None:
    for expected in (["0000000001.twj", "0000000002.twj"],) * 3:
        journal = await open_journal()
        await journal.close()
        assert sorted(path.name for path in (tmp_path / "door-0").glob("*.twj")) == expected, "nothing piles up"
    journal = await open_journal()
    await fill_segments(journal, 1)
    await journal.close()
    journal = await open_journal()
    assert journal.durable_end == Position(3, 0)


async def test_reserved_segments_of_another_size_are_made_anew(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    written = await fill_segments(journal, 1)
    await journal.close()
    journal = await open_journal(segment_bytes=131_072)
    written += await fill_segments(journal, 1)
    assert await read_all(journal) == written


async def test_a_failed_sync_is_the_end_of_a_journal(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await open_journal()
    journal.append(make_opened("good"))
    await journal.flush()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk_journal, "sync_data", fail)
    outcomes: list[BaseException | None] = []
    journal.when_durable(journal.append(make_opened("a")), outcomes.append)
    await asyncio.sleep(0)
    journal.when_durable(journal.append(make_opened("b")), outcomes.append)
    with pytest.raises(UnavailableError, match="cannot be written: .*Input/output error"):
        await journal.flush()
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, UnavailableError]
    assert journal.error is outcomes[0]
    monkeypatch.undo()
    for record in (make_opened("c"), make_progress(), make_closed()):
        with pytest.raises(UnavailableError, match="cannot be written"):
            journal.append(record)
    assert [type(record) for record in await read_all(journal)] == [Opened]
    with pytest.raises(UnavailableError):
        await journal.close()
    again = await open_journal()
    assert isinstance((await read_all(again))[-1], Closed)


async def test_a_write_in_parts_is_completed(open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: real(fd, content[:7], offset))
    content = bytes(range(50))
    descriptor = os.memfd_create("test") if hasattr(os, "memfd_create") else os.open("/dev/null", os.O_WRONLY)
    segments.write_all(descriptor, content, 3)
    assert os.pread(descriptor, 100, 3) == content
    os.close(descriptor)


async def test_a_segment_that_is_not_durable_yet_is_not_a_next_one(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await open_journal()
    journal.append(make_closed("first"))
    await journal.flush()
    disk = StalledDisk(monkeypatch)
    while journal.append(make_closed()) >> 40 < 3:
        await journal.count_unreadable()  # behind the reservation that is under way
    assert journal.find_next_segment(1) is None, "the rest of 1 is not durable, and 2 even less"
    disk.release()
    await journal.flush()
    assert (journal.find_next_segment(1), journal.find_next_segment(2)) == (2, 3)


async def test_a_process_tells_where_it_began_to_write(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    assert journal.first_segment == 1
    await fill_segments(journal, 2)
    assert journal.first_segment == 1
    await journal.close()
    assert (await open_journal()).first_segment == 4


async def test_a_segment_that_somebody_deleted_is_told_and_passed(
    open_journal: OpenJournal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await open_journal()
    written = await fill_segments(journal, 2)
    (tmp_path / "door-0" / "0000000001.twj").unlink()
    rest = await read_all(journal)
    assert rest == written[-len(rest) :]
    assert "segment 1 is gone" in caplog.text


async def test_a_new_id_lasts(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    old = journal.journal_id
    await journal.take_new_id()
    new = journal.journal_id
    assert new != old
    await journal.close()
    assert (await open_journal()).journal_id == new


class FullDisk:
    """No segment can be reserved while `is_full`, and each try waits for `gate`; nothing else is different."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self.tries = 0
        self.gate = threading.Event()
        self.gate.set()

        def sync_folder(folder: Path) -> None:
            self.gate.wait()
            self.tries += 1
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            kit_files.sync_folder(folder)

        monkeypatch.setattr(segments, "sync_folder", sync_folder)


async def test_a_disk_that_reserves_too_slowly_refuses_new_requests_for_a_moment(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await open_journal()
    gate = threading.Event()
    monkeypatch.setattr(segments, "sync_folder", lambda folder: gate.wait())
    with pytest.raises(StorageFullError, match="the disk is too slow to keep up"):
        for number in range(1000):
            journal.append(make_opened(f"req_{number}"))
            journal.append(make_closed(f"req_{number}"))
    gate.set()
    await journal.count_unreadable()
    journal.append(make_opened("again"))
    await journal.flush()


@pytest.mark.parametrize("is_under_way", [True, False], ids=["during a try", "between two"])
async def test_closing_while_the_disk_is_full_ends_the_tries(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch, *, is_under_way: bool
) -> None:
    disk = FullDisk(monkeypatch)
    disk.is_full = False
    journal = await open_journal()
    await journal.count_unreadable()  # behind the reservation that is under way
    disk.is_full = True
    if is_under_way:
        disk.gate.clear()
    await fill_segments(journal, 1)
    if not is_under_way:
        await journal.count_unreadable()
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    disk.gate.set()
    await closing
    tries = disk.tries
    await asyncio.sleep(0.01)
    assert disk.tries == tries


async def test_more_open_requests_than_files_can_close_are_refused(open_journal: OpenJournal) -> None:
    journal = await open_journal()
    with pytest.raises(StorageFullError, match=r"\d+ open requests are too many for journal files of 65536 bytes"):
        for number in range(1000):
            journal.append(make_opened(f"req_{number}"))
            await journal.count_unreadable()  # behind the reservation that is under way
    running = journal.open_requests
    for number in range(running):
        journal.append(make_closed(f"req_{number}", reason="x" * 200))
    await journal.flush()
    assert (journal.open_requests, running > 200) == (0, True)


async def test_a_full_disk_refuses_new_requests_and_closes_those_that_run(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    disk.is_full = False
    journal = await open_journal()
    disk.is_full = True
    await fill_segments(journal, 1)
    monkeypatch.setattr(disk_journal, "RESERVE_RETRY_S", 0)
    running: list[str] = []
    with pytest.raises(StorageFullError, match="usage cannot be recorded: the disk is full"):
        while True:
            await journal.count_unreadable()  # behind the reservation that is under way
            request_id = f"run_{len(running)}"
            journal.append(make_opened(request_id))
            running.append(request_id)
            await journal.flush()
    assert len(running) > 100
    assert journal.is_full
    with pytest.raises(StorageFullError):
        journal.append(make_opened("late"))
    end = 0
    while (position := journal.append(make_progress(running[0]))) > end:
        end = position  # until progress is dropped
    for request_id in running:
        journal.append(make_closed(request_id, reason="x" * 200))
    await journal.flush()
    assert journal.open_requests == 0
    closed = {record.request_id for record in await read_all(journal) if isinstance(record, Closed)}
    assert closed >= set(running)
    tries = disk.tries
    disk.is_full = False
    await until_room(journal)
    assert disk.tries > tries
    journal.append(make_opened("late"))
    await journal.flush()


async def until_room(journal: DiskJournal) -> None:
    while journal.is_full:
        await asyncio.sleep(0.001)
