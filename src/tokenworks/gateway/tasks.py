"""The door's loops: follow the snapshot, tick, drain."""

import asyncio
import logging

from tokenworks.gateway.door import Door
from tokenworks.gateway.ports import SnapshotSource
from tokenworks.kit.errors import TokenworksError

_log = logging.getLogger(__name__)
_RETRY_MS_MIN, _RETRY_MS_MAX = 50, 1_000


async def follow_snapshot(door: Door, source: SnapshotSource) -> None:
    """Keep the door's snapshot current; while control is away, the door serves from the last one."""
    wait_ms = _RETRY_MS_MIN
    is_away = False
    while True:
        try:
            snapshot = await source.next(door.etag)
        except TokenworksError as error:
            if not is_away and door.etag:
                _log.warning("control is away, serving from the last snapshot: %s", error)
                is_away = True
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(wait_ms * 2, _RETRY_MS_MAX)
            continue
        if is_away:
            _log.warning("control is back")
        is_away = False
        wait_ms = _RETRY_MS_MIN
        if snapshot is None:
            door.confirm()
        else:
            door.apply(snapshot)


async def tick(door: Door) -> None:
    """Look at everything that has a time limit, again and again."""
    while True:
        await asyncio.sleep(door.settings.progress_ms / 1000)
        door.tick()


async def drain(door: Door) -> bool:
    """Stop taking work and wait until the answers in flight were made and read; False when the time ran out first."""
    door.start_draining()
    try:
        async with asyncio.timeout(door.settings.drain_ms_max / 1000):
            await door.idle.wait()
            await door.all_left.wait()
    except TimeoutError:
        return False
    return True
