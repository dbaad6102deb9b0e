"""A supervisor whose every replica is the mock engine, for measuring a door together with its real control.

Started with one JSON line on stdin: `{"engine": "127.0.0.1:4711", "path": "cluster.sock"}`; it ends with its parent.
Control asks it for a replica as it would ask the real one, is told the mock's address, and goes on as always.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.cluster.service import ProcessService


class MockProcesses:
    """Implements `Processes`: what is started is there at once, and is always the mock."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._running: dict[str, ProcessStatus] = {}

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        status = ProcessStatus(
            process_id=spec.process_id,
            pid=os.getpid(),
            started_at_ms=time.time_ns() // 1_000_000,
            exit_code=None,
            labels=spec.labels,
            address=self._engine,
        )
        return self._running.setdefault(spec.process_id, status)

    async def stop(self, process_id: str) -> None:
        self._running.pop(process_id, None)

    async def list(self) -> tuple[ProcessStatus, ...]:
        return tuple(self._running.values())


async def _run(engine: str, path: Path) -> None:
    await ProcessService(MockProcesses(engine), path).open()
    # A thread that waits for the end of stdin: the loop stays free.
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


def main() -> None:
    """Read the configuration and serve until the parent is gone."""
    config = json.loads(sys.stdin.readline())
    asyncio.run(_run(config["engine"], Path(config["path"])))


if __name__ == "__main__":
    main()
