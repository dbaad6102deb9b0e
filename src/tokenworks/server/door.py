"""The main of a door: `python -m tokenworks.server.door`, started by the supervisor with its configuration on stdin.

The listening socket is the supervisor's: clients who knock while a door is being replaced wait in its queue.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from tokenworks.cluster.child import read_config
from tokenworks.gateway import tasks
from tokenworks.gateway.adapters.control import ControlClient
from tokenworks.gateway.door import Door
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import StartError
from tokenworks.kit.ids import RandomIds, SequenceIds
from tokenworks.kit.log import set_up_logging
from tokenworks.metering.adapters.disk_journal import DiskJournal
from tokenworks.metering.ports import OpenLeftJournal, ShippableJournal
from tokenworks.metering.tasks import Shipper, adopt

_CONTROL = "unix:control.sock"
_SHIP_MS_MAX = 5_000
_SNAPSHOT_S_MAX = 10
_GARBAGE_OBJECTS = 20_000
_JOURNAL_FAILED_EXIT_CODE = 4

_log = logging.getLogger("tokenworks.door")


class DoorConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What the supervisor hands over."""

    settings: dict[str, object]
    region_key: str
    listen_fd: int
    door: int


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    try:
        config = msgspec.convert(read_config(), DoorConfig)
        settings = Settings.model_validate(config.settings)
        set_up_logging(settings.log_level)
        # Requests end without reference cycles; what is made at the start stays. Both are no work for the collector.
        gc.freeze()
        gc.set_threshold(_GARBAGE_OBJECTS)
        return uvloop.run(_run(config, settings))
    except StartError as error:
        print(error.message, file=sys.stderr)  # noqa: T201  # the supervisor shows this line
        return 2


async def _run(config: DoorConfig, settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    control = ControlClient(_CONTROL, config.region_key)
    journal = await _open_journal(settings, settings.journal_dir / f"door-{config.door}")
    door = Door(settings.gateway, journal, SystemClock(), SequenceIds(), _CONTROL)
    shipper = _make_shipper(settings, journal, control)
    failed = False
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(tasks.follow_snapshot(door, control)),
            group.create_task(tasks.tick(door)),
            group.create_task(shipper.run()),
        ]
        if config.door == 0:
            running.append(group.create_task(_adopt(settings, control)))
        await _wait_for_snapshot(door)
        server = await loop.create_server(
            lambda: ClientConnection(door), sock=socket.socket(fileno=config.listen_fd), backlog=4096
        )
        failed = await _wait_for_end(stopping, journal)
        server.close()
        if not failed:
            await tasks.drain(door)
            await journal.flush()
            await shipper.drain(_SHIP_MS_MAX)
        for task in running:
            task.cancel()
    if failed:
        return _JOURNAL_FAILED_EXIT_CODE
    await journal.close()
    return 0


async def _wait_for_snapshot(door: Door) -> None:
    """Those who knock while a door is being replaced wait for its first snapshot, but not for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SNAPSHOT_S_MAX):
            await door.has_snapshot.wait()


async def _wait_for_end(stopping: asyncio.Event, journal: DiskJournal) -> bool:
    """Wait for the signal to stop; True if the journal failed first: then only a new process can go on."""
    while journal.error is None:
        try:
            async with asyncio.timeout(0.25):
                await stopping.wait()
                return False
        except TimeoutError:
            continue
    _log.critical("the journal failed, this door ends: %s", journal.error)
    return True


async def _open_journal(settings: Settings, folder: Path) -> DiskJournal:
    return await DiskJournal.open(
        folder,
        segment_bytes=settings.metering.segment_bytes,
        reserve_bytes=settings.metering.reserve_bytes,
        archive_days=settings.metering.archive_days,
        clock=SystemClock(),
        ids=RandomIds(),
    )


def _make_shipper(settings: Settings, journal: ShippableJournal, control: ControlClient) -> Shipper:
    return Shipper(
        journal,
        control,
        interval_ms=settings.metering.ship_interval_ms,
        bytes_max=settings.metering.ship_bytes_max,
        pause=_pause,
    )


async def _adopt(settings: Settings, control: ControlClient) -> None:
    """Ship what doors left that do not run any more because there are fewer doors now."""

    def find_left() -> list[OpenLeftJournal]:
        return [
            partial(_open_journal, settings, folder)
            for folder in sorted(settings.journal_dir.glob("door-*"))
            if (number := folder.name.removeprefix("door-")).isdigit() and int(number) >= settings.doors
        ]

    await adopt(find_left, lambda journal: _make_shipper(settings, journal, control), _pause)


async def _pause(ms: int) -> None:
    await asyncio.sleep(ms / 1000)


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
