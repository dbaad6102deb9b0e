"""Serves processes over a unix socket, so that one who asked for a process may die and ask again.

One JSON object per line in each direction; each call gets one answer, in order. Nothing that a client sends or fails to
send ends the service: garbage is answered and closes that connection, a call that has begun runs to its end.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from tokenworks.cluster.model import ListProcesses, ProcessAnswer, ProcessCall, StartProcess, StopProcess
from tokenworks.cluster.ports import Processes
from tokenworks.kit.errors import TokenworksError
from tokenworks.kit.files import storage_errors

CALL_BYTES_MAX = 4 * 1024 * 1024

_CLIENTS_MAX = 64
_WRITE_WAIT_S = 5.0
_IDLE_S = 60.0


class ProcessService:
    """Lets the clients of one socket start, stop and list `processes`, and look at `others`."""

    def __init__(self, processes: Processes, path: Path, *, others: Sequence[Processes] = ()) -> None:
        self._processes = processes
        self._others = others
        self._path = path
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[ProcessAnswer]] = set()

    async def open(self) -> None:
        """Listen. A socket file that is there already belonged to a process that has ended.

        Raises:
            StorageFullError, UnavailableError: the disk refuses.
        """
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with storage_errors(self._path.absolute()):
                listener.bind(str(self._path))
                # Before it listens nobody can connect, so nobody can be faster than this.
                os.chmod(self._path, 0o600)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._server = await asyncio.start_unix_server(self._greet, sock=listener, limit=CALL_BYTES_MAX, backlog=128)

    async def close(self) -> None:
        """Take no more calls; those that have begun are finished."""
        if self._server is not None:
            self._server.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        for task in self._clients:
            task.cancel()
        if self._clients or self._calls:
            await asyncio.wait([*self._clients, *self._calls])

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) <= _CLIENTS_MAX:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # The client is gone, or sleeps, or the service closes: each ends this connection and nothing else.
            pass
        finally:
            self._clients.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(_IDLE_S):
                    line = await reader.readline()
            except ValueError:
                await _send(writer, ProcessAnswer(error=f"a call is longer than {CALL_BYTES_MAX} bytes"))
                return
            if not line.endswith(b"\n"):
                return
            try:
                call = _DECODER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                await _send(writer, ProcessAnswer(error=f"this is not a call: {error}"))
                return
            await _send(writer, await self._run(call))

    async def _run(self, call: ProcessCall) -> ProcessAnswer:
        task = asyncio.ensure_future(self._execute(call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    async def _execute(self, call: ProcessCall) -> ProcessAnswer:
        try:
            match call:
                case StartProcess(spec):
                    if spec.pass_fds:
                        return ProcessAnswer(error="open files cannot travel over a socket of text")
                    return ProcessAnswer(processes=(await self._processes.start(spec),))
                case StopProcess(process_id):
                    await self._processes.stop(process_id)
                    return ProcessAnswer()
                case ListProcesses(with_others):
                    groups = [*(self._others if with_others else ()), self._processes]
                    return ProcessAnswer(processes=tuple([one for group in groups for one in await group.list()]))
        except TokenworksError as error:
            return ProcessAnswer(error=error.message)


_DECODER: msgspec.json.Decoder[ProcessCall] = msgspec.json.Decoder(ProcessCall)


async def _send(writer: asyncio.StreamWriter, answer: ProcessAnswer) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    async with asyncio.timeout(_WRITE_WAIT_S):
        await writer.drain()
