"""Processes that another process of this machine owns, reached over its unix socket (`cluster/service.py`).

One connection per call: there is nothing to repair when either side was restarted in between. Every call may be made
again, since starting what runs and stopping what is gone change nothing.
"""

import asyncio
import errno
from pathlib import Path

import msgspec

from tokenworks.cluster.model import (
    ListProcesses,
    ProcessAnswer,
    ProcessCall,
    ProcessSpec,
    ProcessStatus,
    StartProcess,
    StopProcess,
)
from tokenworks.kit.errors import UnavailableError

_ANSWER_BYTES_MAX = 4 * 1024 * 1024
_TRIES = 3
_RETRY_S = 0.1


class RemoteProcesses:
    """Implements `Processes`."""

    def __init__(self, path: Path, *, timeout_ms: int = 5_000, stop_timeout_ms: int = 60_000) -> None:
        self._path = path
        self._timeout_ms = timeout_ms
        self._stop_timeout_ms = stop_timeout_ms

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        """As the port says.

        Raises:
            UnavailableError: it cannot be started, or the owner of the processes cannot be reached.
        """
        answer = await self._call(StartProcess(spec), self._timeout_ms)
        if len(answer.processes) != 1:
            raise UnavailableError(f"{self._path} answered a start without a process")
        return answer.processes[0]

    async def stop(self, process_id: str) -> None:
        """As the port says.

        Raises:
            UnavailableError: as `start`.
        """
        await self._call(StopProcess(process_id), self._stop_timeout_ms)

    async def list(self) -> tuple[ProcessStatus, ...]:
        """As the port says.

        Raises:
            UnavailableError: the owner of the processes cannot be reached.
        """
        return (await self._call(ListProcesses(), self._timeout_ms)).processes

    async def list_with_others(self) -> tuple[ProcessStatus, ...]:
        """Those, too, that the owner keeps for itself.

        Raises:
            UnavailableError: as `list`.
        """
        return (await self._call(ListProcesses(with_others=True), self._timeout_ms)).processes

    async def _call(self, call: ProcessCall, timeout_ms: int) -> ProcessAnswer:
        line = msgspec.json.encode(call) + b"\n"
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                answer = await self._exchange_again(line)
        except TimeoutError:
            raise UnavailableError(f"no answer from {self._path} within {timeout_ms} ms") from None
        except msgspec.DecodeError as error:
            raise UnavailableError(f"{self._path} does not answer as agreed: {error}") from error
        except (OSError, EOFError, ValueError) as error:
            raise UnavailableError(f"{self._path} cannot be reached: {error}") from error
        if answer.error:
            raise UnavailableError(answer.error)
        return answer

    async def _exchange_again(self, line: bytes) -> ProcessAnswer:
        for _ in range(_TRIES - 1):
            try:
                return await self._exchange(line)
            except (OSError, EOFError) as error:
                if isinstance(error, OSError) and error.errno == errno.EACCES:
                    raise
                await asyncio.sleep(_RETRY_S)
        return await self._exchange(line)

    async def _exchange(self, line: bytes) -> ProcessAnswer:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_ANSWER_BYTES_MAX)
        try:
            writer.write(line)
            await writer.drain()
            answer = await reader.readline()
        finally:
            writer.transport.abort()
        if not answer.endswith(b"\n"):
            raise EOFError("the connection ended before the answer")
        return msgspec.json.decode(answer, type=ProcessAnswer)
