"""A door in small, to be killed: appends requests and prints what became durable, one line each. Not a test."""

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.unit.metering.builders import make_closed, make_opened, make_progress
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.ids import RandomIds
from tokenworks.metering.adapters.disk_journal import DiskJournal
from tokenworks.metering.model import Record

PARALLEL = 16


async def main(folder: str, name: str) -> None:
    journal = await DiskJournal.open(
        Path(folder), segment_bytes=65_536, reserve_bytes=16_384, archive_days=7, clock=SystemClock(), ids=RandomIds()
    )

    async def durable(record: Record, word: str) -> None:
        future = asyncio.get_running_loop().create_future()
        journal.when_durable(
            journal.append(record), lambda error: future.set_exception(error) if error else future.set_result(None)
        )
        await future
        sys.stdout.write(f"{word} {record.request_id}\n")
        sys.stdout.flush()

    async def requests(lane: int) -> None:
        number = 0
        while True:
            request_id = f"{name}_{lane}_{number}"
            await durable(make_opened(request_id), "opened")
            await durable(make_progress(request_id, 3), "progress")
            if number % 3:  # every third stays open for ever
                await durable(make_closed(request_id), "closed")
            number += 1
            await journal.count_unreadable()  # behind the reservation that is under way

    async with asyncio.TaskGroup() as group:
        for lane in range(PARALLEL):
            group.create_task(requests(lane))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
