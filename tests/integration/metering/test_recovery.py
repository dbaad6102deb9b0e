"""What a journal makes of a folder whose last owner died, or whose bytes were damaged."""

import fcntl
import logging
import os
from pathlib import Path

import pytest

from tests.integration.metering.conftest import OpenJournal
from tests.integration.metering.test_disk_journal import fill_segments, read_all
from tests.unit.metering.builders import ManualClock, make_closed, make_interrupted, make_opened, make_progress
from tokenworks.kit.errors import StartError
from tokenworks.metering.adapters import segments
from tokenworks.metering.journal import encode
from tokenworks.metering.model import Counts, Position, Record

SIZE = 65_536


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "door-0"
    made.mkdir()
    return made


def write_segment(folder: Path, number: int, content: bytes, size: int = SIZE) -> Path:
    path = folder / f"{number:010d}.twj"
    path.write_bytes(content.ljust(size, b"\0"))
    return path


def frames(*records: Record) -> bytes:
    return b"".join(encode(record) for record in records)


async def test_open_requests_are_closed_with_their_last_durable_counts(
    open_journal: OpenJournal, folder: Path, clock: ManualClock
) -> None:
    before: list[Record] = [
        make_opened("a"),
        make_opened("b"),
        make_progress("a", 3),
        make_opened("c"),
        make_progress("a", 8),
        make_closed("b"),
    ]
    write_segment(folder, 1, frames(*before[:3]))
    write_segment(folder, 2, frames(*before[3:]))
    journal = await open_journal()
    after = [
        make_interrupted("a", Counts(10, 4, 8), clock.ms),
        make_interrupted("c", Counts(), clock.ms),
    ]
    assert journal.durable_end > Position(3, 0), "they are durable already"
    assert await read_all(journal) == before + after
    await journal.close()
    clock.ms += 1
    journal = await open_journal()
    assert await read_all(journal) == before + after, "a second recovery adds nothing"


async def test_what_a_killed_owner_may_not_have_synced_is_synced_before_it_counts_as_durable(
    open_journal: OpenJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        write_segment(folder, number, frames(make_closed(f"req_{number}")))
    synced: set[int] = set()

    def sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        os.fsync(descriptor)

    monkeypatch.setattr(segments, "sync_data", sync)
    await open_journal()
    assert {(folder / f"000000000{number}.twj").stat().st_ino for number in (1, 2)} <= synced


async def test_more_open_requests_than_fit_in_a_segment(open_journal: OpenJournal, folder: Path) -> None:
    names = [f"req_{number}" for number in range(900)]
    for number in range(3):
        write_segment(folder, number + 1, frames(*map(make_opened, names[number * 300 : number * 300 + 300])))
    journal = await open_journal()
    closed = [record.request_id for record in await read_all(journal)][900:]
    assert closed == names
    assert journal.durable_end.segment > 5


async def test_a_torn_tail_is_cut(
    open_journal: OpenJournal, folder: Path, caplog: pytest.LogCaptureFixture, clock: ManualClock
) -> None:
    whole = frames(make_opened("a"), make_progress("a", 3))
    path = write_segment(folder, 1, whole + frames(make_closed("a"))[:-3])
    with caplog.at_level(logging.WARNING):
        journal = await open_journal()
    assert "of a torn tail at 1-" in caplog.text
    assert path.read_bytes() == whole.ljust(SIZE, b"\0")
    assert (await read_all(journal))[-1] == make_interrupted("a", Counts(10, 4, 3), clock.ms)
    assert await journal.count_unreadable() == 0


async def test_a_first_record_that_is_torn_leaves_an_empty_segment_that_is_used_again(
    open_journal: OpenJournal, folder: Path
) -> None:
    write_segment(folder, 1, frames(make_closed("a")))
    write_segment(folder, 2, frames(make_opened("b"))[:-3])
    write_segment(folder, 3, b"")
    journal = await open_journal()
    assert (journal.segments(), journal.first_segment) == ([1, 2], 2), "no number is skipped"
    assert journal.durable_end == Position(2, 0)
    journal.append(make_closed("c"))
    await journal.flush()
    assert await read_all(journal) == [make_closed("a"), make_closed("c")]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([SIZE, SIZE // 2], 2),
        ([SIZE // 2, SIZE], 2),
        ([SIZE // 2, SIZE // 2], 2),
        ([0, SIZE], 3),
        ([SIZE, 0, SIZE], 2),
    ],
    ids=["second unfit", "first unfit", "both unfit", "first gone", "second gone"],
)
async def test_no_number_is_skipped_when_reserved_segments_do_not_fit(
    open_journal: OpenJournal, folder: Path, sizes: list[int], expected: int
) -> None:
    write_segment(folder, 1, frames(make_closed("a")))
    for number, size in enumerate(sizes, 2):
        if size:
            write_segment(folder, number, b"", size=size)
    journal = await open_journal()
    assert journal.first_segment == expected
    await fill_segments(journal, 2)
    assert journal.segments() == [1, expected, expected + 1, expected + 2]


async def test_segments_that_do_not_fit_are_deleted_from_behind(
    open_journal: OpenJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 3):
        write_segment(folder, number, b"", size=SIZE // 2)
    deleted: list[int] = []
    real = segments.SegmentFiles.delete_empty

    def delete(files: segments.SegmentFiles, number: int) -> None:
        deleted.append(number)
        real(files, number)

    monkeypatch.setattr(segments.SegmentFiles, "delete_empty", delete)
    await open_journal()
    assert deleted == [3, 2], "a death between the two leaves no hole"


async def test_a_damaged_stretch_is_kept_counted_and_shipped(
    open_journal: OpenJournal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = len(frames(make_opened("a")))
    damaged = bytearray(frames(make_opened("a"), make_closed("a"), make_opened("b"), make_closed("b")))
    end = start + len(frames(make_closed("a")))
    damaged[start + 40] ^= 1
    write_segment(folder, 1, bytes(damaged))
    journal = await open_journal()
    assert "cannot be read" in caplog.text
    assert await journal.count_unreadable() == 1
    assert (folder / "unreadable" / f"0000000001-{start}.bin").read_bytes() == damaged[start:end]
    shipped = b""
    while content := await journal.read_durable(1, len(shipped), 100):
        shipped += content
    assert shipped == damaged, "control sees the damage, too, and sets it aside"
    await journal.close()
    assert await (await open_journal()).count_unreadable() == 1


async def test_a_tail_that_is_damaged_behind_its_time_is_no_torn_one(open_journal: OpenJournal, folder: Path) -> None:
    whole = frames(make_opened("a"))
    lost = frames(make_closed("a"))[:-1] + b"?"
    path = write_segment(folder, 1, whole + lost)
    write_segment(folder, 2, frames(make_opened("b"), make_closed("b")))
    journal = await open_journal()
    assert path.read_bytes().startswith(whole + lost), "left as it is: the next segment was begun after it was synced"
    assert await journal.count_unreadable() == 1
    assert await journal.read_durable(1, len(whole), 1000) == lost


async def test_only_empty_segments_behind_the_last_record_are_used_again(
    open_journal: OpenJournal, folder: Path
) -> None:
    for number, content in enumerate((b"", frames(make_closed("a")), b"", b"", b"", b""), 1):
        write_segment(folder, number, content, size=SIZE // 2 if number == 6 else SIZE)
    (folder / "notes.twj").write_bytes(b"no segment")
    journal = await open_journal()
    names = sorted(path.name for path in folder.glob("*.twj"))
    assert names == ["0000000002.twj", "0000000003.twj", "0000000004.twj", "notes.twj"]
    assert journal.durable_end == Position(3, 0)
    await fill_segments(journal, 2)
    assert journal.durable_end.segment == 5


async def test_numbers_go_on_behind_the_archive(open_journal: OpenJournal, folder: Path) -> None:
    journal = await open_journal()
    await fill_segments(journal, 3)
    await journal.archive(99)
    await journal.close()
    for path in folder.glob("*.twj"):
        path.unlink()
    journal = await open_journal()
    assert journal.durable_end == Position(4, 0)


async def test_a_journal_keeps_its_name(open_journal: OpenJournal, folder: Path) -> None:
    (folder / "journal.id").write_text("journal_mine\n")
    assert (await open_journal()).journal_id == "journal_mine"


async def test_an_empty_name_is_made_anew(open_journal: OpenJournal, folder: Path) -> None:
    (folder / "journal.id").write_text("")
    assert (await open_journal()).journal_id.startswith("journal_")


@pytest.mark.parametrize("has_open_requests", [False, True])
async def test_no_room_for_a_first_segment_is_told_in_a_sentence(
    open_journal: OpenJournal, folder: Path, monkeypatch: pytest.MonkeyPatch, *, has_open_requests: bool
) -> None:
    def fail(descriptor: int, content: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    if has_open_requests:
        write_segment(folder, 1, frames(make_opened("a")))
        write_segment(folder, 2, frames(make_opened("b")))
    monkeypatch.setattr(segments, "write_all", fail)
    with pytest.raises(StartError, match="the disk is full: cannot write .*0000000003|0000000001"):
        await open_journal()
    monkeypatch.undo()
    await open_journal()


async def test_no_room_to_close_what_was_left_open_is_told_in_a_sentence(
    open_journal: OpenJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_segment(folder, number + 1, frames(*(make_opened(f"req_{number}_{each}") for each in range(500))))
    write_segment(folder, 3, b"")  # one that had been reserved: too small for all of them

    def fail(descriptor: int, content: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "write_all", fail)
    with pytest.raises(StartError, match="usage cannot be recorded: the disk is full"):
        await open_journal()
    monkeypatch.undo()
    journal = await open_journal()
    records = await read_all(journal)
    assert len(records) == 2000
    assert len({record.request_id for record in records}) == 1000


async def test_a_lock_that_cannot_be_taken_for_another_reason(
    open_journal: OpenJournal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StartError, match="the disk failed at .*door-0"):
        await open_journal()
