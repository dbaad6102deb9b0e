"""A disk that is really full: a small file system of its own, where this machine lets us mount one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.metering.conftest import OpenJournal
from tests.integration.metering.test_disk_journal import read_all, until_room
from tests.unit.metering.builders import make_closed, make_opened
from tokenworks.kit.errors import StartError, StorageFullError
from tokenworks.metering.adapters import disk_journal
from tokenworks.metering.model import Closed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_running_requests_are_closed_on_a_full_disk_and_new_ones_taken_when_there_is_room(
    open_journal: OpenJournal, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_journal, "RESERVE_RETRY_S", 0)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    journal = await open_journal(small_disk / "door-0")
    finished: list[str] = []
    running: list[str] = []
    with pytest.raises(StorageFullError, match="the disk is full: cannot write .*door-0"):
        while True:
            await journal.count_unreadable()  # behind the reservation that is under way
            request_id = f"req_{len(finished) + len(running)}"
            journal.append(make_opened(request_id))
            running.append(request_id)
            if len(running) > 50:
                finished.append(running.pop(0))
                journal.append(make_closed(finished[-1]))
            await journal.flush()
    for request_id in running:
        journal.append(make_closed(request_id))
    await journal.flush()
    closed = [record.request_id for record in await read_all(journal) if isinstance(record, Closed)]
    assert closed == finished + running
    ballast.unlink()
    await until_room(journal)
    journal.append(make_opened("after"))
    await journal.flush()


async def test_a_journal_that_cannot_be_made_on_a_full_disk_says_so(
    open_journal: OpenJournal, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(480_000))
    with pytest.raises(StartError, match="the disk is full: cannot write .*0000000001.twj; free some room"):
        await open_journal(small_disk / "door-0")
    (small_disk / "ballast").unlink()
    await open_journal(small_disk / "door-0")
