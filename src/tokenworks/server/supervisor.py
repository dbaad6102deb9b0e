"""What `tokenworks up` runs: takes the home, opens the port, starts control and doors, and keeps them running.

It serves no request and decides nothing about models, so that there is little in it to fail. It owns every process of
this machine: control, the doors with the sockets that they inherit, and the replicas that control asks for over
`cluster.sock`; a control or a door that dies is started again and finds its sockets and replicas as they were. When the
supervisor itself is killed, its children notice and end (`cluster/child.py`), and the home's locks become free.
"""

import asyncio
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.model import ProcessSpec
from tokenworks.cluster.service import ProcessService
from tokenworks.kit.clock import Clock, SystemClock
from tokenworks.kit.config import Settings, inherited_environment
from tokenworks.kit.errors import TokenworksError, UnavailableError, UpstreamError
from tokenworks.kit.http1 import fetch
from tokenworks.kit.ids import make_secret
from tokenworks.server.home import Home, find_holder, open_home
from tokenworks.server.keeper import Keeper, Waits
from tokenworks.server.listen import listen, local_address, url_of
from tokenworks.serving.model import DEFAULT_DEPLOYMENT

CLUSTER_SOCKET = "cluster.sock"
"""In the run folder, which is every child's working directory."""

_STOP_MARGIN_MS = 10_000
"""For shipping and closing, beyond the time that answers in flight have."""
_POLL_S = 0.1
_SAY_WAIT_MS = 5_000
_OPEN_FILES_MAX = 1_048_576


@dataclass(frozen=True, slots=True)
class Ready:
    """What to tell the person who started it."""

    address: str
    """`http://127.0.0.1:8080`."""
    key_path: Path
    """The administrator's key."""
    model: str
    """A model that answers."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The mains of the children."""

    control: tuple[str, ...] = (sys.executable, "-m", "tokenworks.server.control")
    door: tuple[str, ...] = (sys.executable, "-m", "tokenworks.server.door")


async def run(settings: Settings, on_ready: Callable[[Ready], None], programs: Programs | None = None) -> int:
    """Run tokenworks until it is told to stop (SIGTERM, SIGINT); return the exit code.

    Raises:
        StartError: it cannot start; the message says why and what to do.
    """
    os.umask(0o077)
    _raise_open_files()
    clock = SystemClock()
    home = await open_home(settings, clock)
    try:
        listeners = listen(settings.host, settings.port, settings.doors)
        try:
            with _inside(settings.run_dir):
                supervisor = _Supervisor(settings, home, listeners, programs or Programs(), clock)
                return await supervisor.run(on_ready)
        finally:
            for listener in listeners:
                listener.close()
    finally:
        home.close()


def stop(settings: Settings, clock: Clock | None = None) -> bool:
    """Stop the tokenworks of the home and wait until it is gone; False if there was none.

    Raises:
        UnavailableError: it does not stop, or belongs to another user.
    """
    clock = clock or SystemClock()
    holder = find_holder(settings.home)
    if holder is None:
        return False
    wait_ms = settings.gateway.drain_ms_max + 3 * _STOP_MARGIN_MS + settings.serving.stop_ms_max
    end_ms = clock.monotonic_ms() + wait_ms
    told = 0
    while holder is not None:
        if holder.pid not in (0, told):
            told = holder.pid
            _terminate(holder.pid)
        if clock.monotonic_ms() >= end_ms:
            raise UnavailableError(f"process {holder.pid} was asked to stop {wait_ms} ms ago and still runs")
        threading.Event().wait(_POLL_S)
        holder = find_holder(settings.home)
    return True


class _Supervisor:
    def __init__(
        self, settings: Settings, home: Home, listeners: list[socket.socket], programs: Programs, clock: Clock
    ) -> None:
        self._settings = settings
        self._home = home
        self._listeners = listeners
        self._programs = programs
        self._clock = clock
        self._address = local_address(listeners[0])
        self._region_key = make_secret()
        self._stop = asyncio.Event()
        self._is_killed = False
        # Three groups, because they stop one after the other, and because control may only touch the last.
        self._doors = self._make_processes()
        self._control = self._make_processes()
        self._replicas = self._make_processes()
        self._service = ProcessService(self._replicas, Path(CLUSTER_SOCKET), others=(self._control, self._doors))

    async def run(self, on_ready: Callable[[Ready], None]) -> int:
        with self._signals():
            try:
                await self._service.open()
                self._home.tell(url_of(self._address))
                await self._serve(on_ready)
            finally:
                await self._end()
        return 1 if self._is_killed else 0

    async def _serve(self, on_ready: Callable[[Ready], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in self._work(on_ready)]
                await self._stop.wait()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            known = errors.subgroup(TokenworksError)
            if known is None:
                raise
            raise _first(known) from None

    def _work(self, on_ready: Callable[[Ready], None]) -> Iterator[Coroutine[Any, Any, None]]:
        serving = self._settings.serving
        waits = Waits(serving.restart_wait_ms_min, serving.restart_wait_ms_max)
        yield Keeper(self._control, self._control_spec(), waits, self._clock, _say).keep()
        for door in range(len(self._listeners)):
            yield Keeper(self._doors, self._door_spec(door), waits, self._clock, _say).keep()
        yield self._wait_ready(on_ready)

    async def _wait_ready(self, on_ready: Callable[[Ready], None]) -> None:
        said, said_at_ms = "", self._clock.monotonic_ms()
        while True:
            reason = await self._ask_ready()
            if reason is None:
                break
            now_ms = self._clock.monotonic_ms()
            if reason != said and now_ms - said_at_ms >= _SAY_WAIT_MS:
                said, said_at_ms = reason, now_ms
                _say(f"not ready yet: {reason}")
            await asyncio.sleep(_POLL_S)
        try:
            on_ready(Ready(url_of(self._address), self._settings.home / "admin.key", DEFAULT_DEPLOYMENT))
        except OSError as error:
            # Whoever read our output has left, or its disk is full; who asks the door is answered all the same.
            _say(f"answers at {url_of(self._address)}, but cannot say so on its output ({error.strerror})")

    async def _ask_ready(self) -> str | None:
        """None when tokens can be had; else the reason why not."""
        try:
            answer = await fetch(self._address, "GET", "/readyz", timeout_ms=2_000)
        except UpstreamError as error:
            return error.message
        if answer.status == 200:
            return None
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(answer.body, type=_NotReady).error.message
        return f"the door answered {answer.status}"

    def _control_spec(self) -> ProcessSpec:
        return ProcessSpec(
            process_id="control",
            argv=self._programs.control,
            config=self._config(),
            log_name="control",
            stop_ms_max=_STOP_MARGIN_MS,
        )

    def _door_spec(self, door: int) -> ProcessSpec:
        descriptor = self._listeners[door].fileno()
        return ProcessSpec(
            process_id=f"door-{door}",
            argv=self._programs.door,
            config={**self._config(), "listen_fd": descriptor, "door": door},
            log_name=f"door-{door}",
            stop_ms_max=self._settings.gateway.drain_ms_max + _STOP_MARGIN_MS,
            pass_fds=(descriptor,),
        )

    def _config(self) -> dict[str, object]:
        return {"settings": self._settings.model_dump(mode="json"), "region_key": self._region_key}

    def _make_processes(self) -> LocalProcesses:
        return LocalProcesses(
            self._settings.run_dir,
            self._settings.log_dir,
            inherited_environment(),
            self._clock,
            shared_fds=(self._home.children_fd,),
        )

    async def _end(self) -> None:
        """Doors first, so that answers in flight finish and are shipped; then control; then the replicas."""
        for listener in self._listeners:
            # The doors have their own copies; a new client is refused as soon as they close those.
            listener.close()
        for name, part in (("doors", self._doors), ("control", self._control), ("replicas", self._replicas)):
            if part is self._replicas:
                await self._service.close()
            try:
                await part.stop_all()
            except UnavailableError as error:
                _say(f"could not stop the {name}: {error.message}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # Under nohup it is ignored, and shall be.
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._take_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _take_signal(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            return
        self._is_killed = True
        for part in (self._doors, self._control, self._replicas):
            part.kill_all()


class _Error(msgspec.Struct):
    message: str


class _NotReady(msgspec.Struct):
    error: _Error


def _first(errors: BaseExceptionGroup[TokenworksError]) -> TokenworksError:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, TokenworksError)
    return first


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # It has ended by itself; its lock is free.
    except PermissionError as error:
        raise UnavailableError(f"process {pid} belongs to another user and cannot be stopped") from error


def _raise_open_files() -> None:
    """Each client takes a descriptor; the usual soft limit of 1024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A system may allow less than its hard limit says (macOS does); then the soft one stays.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the run folder: paths of sockets are short there, wherever the home is."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(before)


def _say(line: str) -> None:
    if sys.stderr is None:  # as it is under `2>&-`
        return
    with suppress(OSError):
        sys.stderr.write(f"tokenworks: {line}\n")
        sys.stderr.flush()
