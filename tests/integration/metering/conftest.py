"""Journals in a fresh folder."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.metering.builders import ManualClock
from tokenworks.kit.errors import UnavailableError
from tokenworks.kit.ids import SequenceIds
from tokenworks.metering.adapters import disk_journal, segments
from tokenworks.metering.adapters.disk_journal import DiskJournal

OpenJournal = Callable[..., Awaitable[DiskJournal]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def open_journal(tmp_path: Path, clock: ManualClock) -> AsyncIterator[OpenJournal]:
    """Open the journal of `tmp_path / "door-0"`; what a test leaves open is closed behind it."""
    ids = SequenceIds("test")
    opened: list[DiskJournal] = []

    async def open_one(
        folder: Path = tmp_path / "door-0",
        segment_bytes: int = 65_536,
        reserve_bytes: int = 16_384,
        archive_days: int = 7,
    ) -> DiskJournal:
        journal = await DiskJournal.open(
            folder,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            archive_days=archive_days,
            clock=clock,
            ids=ids,
        )
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        try:
            await journal.close()
        except UnavailableError:
            assert journal.error is not None


class StalledDisk:
    """The writer's syncs wait until `release`; reserving, reading and archiving go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self._gate = threading.Event()

        def sync(descriptor: int) -> None:
            self._gate.wait(5)  # a test that fails ends all the same
            if error is not None:
                raise error
            segments.sync_data(descriptor)

        monkeypatch.setattr(disk_journal, "sync_data", sync)

    def release(self) -> None:
        self._gate.set()
