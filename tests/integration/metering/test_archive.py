"""Putting away what control has: never a record that recovery would still need."""

import asyncio
import errno
from pathlib import Path

import pytest

from tests.integration.metering.conftest import OpenJournal, StalledDisk
from tests.integration.metering.test_disk_journal import fill_segments, read_all
from tests.unit.metering.builders import ManualClock, make_closed, make_opened


async def test_archive_takes_what_is_shipped_and_forgets_it_in_time(
    open_journal: OpenJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal = await open_journal(archive_days=7)
    written = await fill_segments(journal, 3)
    await journal.archive(3)
    folder = tmp_path / "door-0"
    assert sorted(path.name for path in (folder / "archive").iterdir()) == ["0000000001.twj", "0000000002.twj"]
    assert (folder / "archive" / "0000000001.twj").stat().st_size < 65_536, "without the room that it did not use"
    assert await read_all(journal) == written, "it can still be read"
    await journal.close()
    clock.ms += 3 * 86_400_000
    journal = await open_journal(archive_days=7)
    assert await read_all(journal) == written, "after a restart, too"
    await journal.archive(4)
    clock.ms += 4 * 86_400_000
    await journal.archive(4)
    assert sorted(path.name for path in (folder / "archive").iterdir()) == ["0000000003.twj"]
    assert journal.segments()[0] == 3
    assert await journal.read_durable(1, 0, 100) == b""


async def test_archive_never_takes_the_segment_in_use_nor_one_with_an_open_request(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    journal = await open_journal()
    await fill_segments(journal, 1)
    journal.append(make_opened("long"))
    await fill_segments(journal, 2)
    assert journal.open_requests == 1
    await journal.archive(99)
    archive = tmp_path / "door-0" / "archive"
    assert [path.name for path in archive.iterdir()] == ["0000000001.twj"]
    journal.append(make_closed("long"))
    await journal.flush()
    await journal.archive(99)
    assert sorted(path.name for path in archive.iterdir()) == [f"000000000{n}.twj" for n in (1, 2, 3)]


@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "Input/output error")])
async def test_archive_waits_until_what_closes_a_request_is_durable(
    open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    journal = await open_journal()
    journal.append(make_opened("long"))
    await fill_segments(journal, 1)
    live = tmp_path / "door-0" / "0000000001.twj"
    disk = StalledDisk(monkeypatch, error)
    journal.append(make_closed("long"))
    archiving = asyncio.create_task(journal.archive(2))
    await journal.count_unreadable()
    await journal.count_unreadable()
    assert live.exists(), "killed now, recovery finds the opening"
    disk.release()
    await archiving
    assert live.exists() == (error is not None), "of a journal that failed, all is kept"


async def test_what_opens_while_archive_waits_stays(open_journal: OpenJournal, tmp_path: Path) -> None:
    journal = await open_journal()
    await fill_segments(journal, 1)
    journal.append(make_closed("a"))
    archiving = asyncio.create_task(journal.archive(99))
    await asyncio.sleep(0)
    journal.append(make_opened("late"))
    await archiving
    assert [path.name for path in (tmp_path / "door-0" / "archive").iterdir()] == ["0000000001.twj"]
