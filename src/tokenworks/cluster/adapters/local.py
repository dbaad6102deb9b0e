"""Real processes of this machine.

Each child has a session of its own (a terminal's Ctrl-C reaches only the parent) and is told apart from the parent's
files: it inherits stdin, stdout, stderr and what `pass_fds` names. Its configuration is the first line of stdin, which
stays open for as long as the parent lives. What it writes goes to its log; one line on stdout announces its address.
Its end is noticed at once, and takes with it whatever it started in its process group.
"""

import asyncio
import errno
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from tokenworks.cluster.adapters.log_file import LogFile
from tokenworks.cluster.child import ADDRESS_WORD
from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.kit.clock import Clock
from tokenworks.kit.errors import StartError, UnavailableError

LOG_BYTES_MAX = 16 * 1024 * 1024

_OUTPUT_WAIT_S = 0.5
"""How long an ended process's pipes may stay open (a grandchild may hold them) before its end is told."""
_KILL_WAIT_S = 10.0
_LINE_BYTES_MAX = 65_536


class LocalProcesses:
    """Implements `Processes`. Use it from one event loop; children end with the thread that made them."""

    def __init__(
        self,
        place: Path,
        log_dir: Path,
        environment: Mapping[str, str],
        clock: Clock,
        *,
        shared_fds: tuple[int, ...] = (),
        log_bytes_max: int = LOG_BYTES_MAX,
    ) -> None:
        """`place` is the working directory of every child; every child inherits `shared_fds`."""
        self._place = place
        self._log_dir = log_dir
        self._environment = dict(environment)
        self._clock = clock
        self._shared_fds = shared_fds
        self._log_bytes_max = log_bytes_max
        self._children: dict[str, _Child] = {}
        self._starting: dict[str, asyncio.Future[_Child]] = {}

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        """As the port says.

        Raises:
            StartError: the system refuses to start it; the message says why.
        """
        present = self._children.get(spec.process_id)
        if present is not None and present.is_stopping:
            await present.ended.wait()
            present = None
        if present is not None and present.exit_code is None:
            return present.status()
        pending = self._starting.get(spec.process_id)
        if pending is None:
            pending = asyncio.ensure_future(self._spawn(spec))
            self._starting[spec.process_id] = pending
            pending.add_done_callback(lambda _: self._starting.pop(spec.process_id, None))
        # Shielded: a caller that gives up must not leave a process that nobody has in a list.
        return (await asyncio.shield(pending)).status()

    async def stop(self, process_id: str) -> None:
        """As the port says.

        Raises:
            UnavailableError: it does not even end when killed.
        """
        pending = self._starting.get(process_id)
        if pending is not None:
            await asyncio.wait([pending])
        child = self._children.get(process_id)
        if child is None:
            return
        await child.stop()
        if self._children.get(process_id) is child:
            del self._children[process_id]

    async def list(self) -> tuple[ProcessStatus, ...]:
        return tuple(child.status() for child in self._children.values())

    async def wait(self, process_id: str) -> ProcessStatus | None:
        """Wait for its end; None if there is no such process."""
        child = self._children.get(process_id)
        if child is None:
            return None
        await child.ended.wait()
        return child.status()

    async def stop_all(self) -> None:
        """Stop every process, all at the same time."""
        await asyncio.gather(*(self.stop(process_id) for process_id in {*self._children, *self._starting}))

    def kill_all(self) -> None:
        """Kill every process now, without waiting."""
        for child in self._children.values():
            child.kill()

    async def _spawn(self, spec: ProcessSpec) -> "_Child":
        line = json.dumps(dict(spec.config)).encode() + b"\n"
        log = LogFile(self._log_dir / f"{spec.log_name}.log", self._log_bytes_max)
        child = _Child(spec, log, self._clock.now_ms())
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child,
                *spec.argv,
                cwd=self._place,
                env={**self._environment, **spec.environment},
                start_new_session=True,
                close_fds=True,
                pass_fds=(*self._shared_fds, *spec.pass_fds),
            )
        except (OSError, ValueError) as error:
            raise StartError(_sentence(spec, error)) from error
        child.configure(line)
        self._children[spec.process_id] = child
        return child


class _Child(asyncio.SubprocessProtocol):
    def __init__(self, spec: ProcessSpec, log: LogFile, started_at_ms: int) -> None:
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self.is_stopping = False
        self._spec = spec
        self._log = log
        self._started_at_ms = started_at_ms
        self._address: str | None = None
        self._line = b""
        self._pid = 0
        self._transport: asyncio.SubprocessTransport | None = None
        self._returned: int | None = None
        self._open_pipes = {1, 2}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._pid = self._transport.get_pid()

    def configure(self, line: bytes) -> None:
        """Give it its configuration; the pipe stays open."""
        assert self._transport is not None
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        stdin.write(line)

    def status(self) -> ProcessStatus:
        return ProcessStatus(
            process_id=self._spec.process_id,
            pid=self._pid,
            started_at_ms=self._started_at_ms,
            exit_code=self.exit_code,
            labels=self._spec.labels,
            address=self._address,
            last_line=self._log.last_line,
        )

    async def stop(self) -> None:
        self.is_stopping = True
        if self._signal(signal.SIGTERM):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._spec.stop_ms_max / 1000):
                    await self.ended.wait()
        self.kill()
        try:
            async with asyncio.timeout(_KILL_WAIT_S):
                await self.ended.wait()
        except TimeoutError:
            raise UnavailableError(
                f"the process {self._pid} ({self._spec.process_id}) was killed and is still there"
            ) from None

    def kill(self) -> None:
        """Kill it and what it started."""
        self._signal(signal.SIGKILL)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            data = self._take_address(data)
        if data:
            self._log.write(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if fd == 1 and self._line:
            self._log.write(self._line)
            self._line = b""
        if self._returned is not None and not self._open_pipes:
            self._end()

    def process_exited(self) -> None:
        assert self._transport is not None
        self._returned = self._transport.get_returncode()
        # What it started in its group is of no use without it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._open_pipes:
            asyncio.get_running_loop().call_later(_OUTPUT_WAIT_S, self._end)
        else:
            self._end()

    def _end(self) -> None:
        if self.exit_code is not None:
            return
        self.exit_code = self._returned
        self._log.close()
        if self._transport is not None:
            self._transport.close()
        self.ended.set()

    def _signal(self, number: signal.Signals) -> bool:
        # Until the child is reaped its number cannot be another's; the loop reaps and tells in one turn.
        if self._returned is not None:
            return False
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # macOS says so of a group whose leader has just ended.
            return False
        return True

    def _take_address(self, data: bytes) -> bytes:
        """Cut announcements out of stdout; the rest belongs into the log, by whole lines."""
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _LINE_BYTES_MAX:
            lines.append(self._line)
            self._line = b""
        rest = bytearray()
        for line in lines:
            word, _, address = line.partition(b" ")
            if word == ADDRESS_WORD.encode():
                self._address = address.decode("ascii", "replace").strip()
            else:
                rest += line + b"\n"
        return bytes(rest)


def _sentence(spec: ProcessSpec, error: OSError | ValueError) -> str:
    program = spec.argv[0] if spec.argv else ""
    if isinstance(error, FileNotFoundError):
        return f"cannot start {spec.process_id}: there is no program {program}, or no folder to run it in"
    if isinstance(error, PermissionError):
        return f"cannot start {spec.process_id}: {program} is not executable for this user"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"cannot start {spec.process_id}: too many open files; raise the limit (ulimit -n)"
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM):
        return f"cannot start {spec.process_id}: this machine has no room for another process ({error.strerror})"
    return f"cannot start {spec.process_id}: {error}"
