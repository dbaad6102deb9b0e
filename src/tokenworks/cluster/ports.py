"""The port behind which processes run: this machine today, Ray later."""

from typing import Protocol

from tokenworks.cluster.model import ProcessSpec, ProcessStatus


class Processes(Protocol):
    """Starts, stops and lists processes. A process that has ended stays listed until it is forgotten."""

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        """Start it; a running process with the same id is returned as it is."""
        ...

    async def stop(self, process_id: str) -> None:
        """Ask it to end, kill it after its `stop_ms_max`, and forget it; unknown ids are ignored."""
        ...

    async def list(self) -> tuple[ProcessStatus, ...]:
        """All processes that were started and not yet forgotten."""
        ...
