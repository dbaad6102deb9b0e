"""Processes over a unix socket: calls, refusals, clients that die or talk nonsense, owners that come and go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.cluster.programs import ANNOUNCE, make_local, make_spec
from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.adapters.remote import RemoteProcesses
from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.cluster.service import ProcessService
from tokenworks.kit.errors import UnavailableError


class FakeProcesses:
    """Processes that are only a list; `gate` holds a stop back."""

    def __init__(self) -> None:
        self.running: dict[str, ProcessStatus] = {}
        self.gate = asyncio.Event()
        self.stops = 0

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        if spec.process_id == "bad":
            raise UnavailableError("there is no room")
        status = ProcessStatus(spec.process_id, 5, 1, None, spec.labels, None)
        return self.running.setdefault(spec.process_id, status)

    async def stop(self, process_id: str) -> None:
        await self.gate.wait()
        self.stops += 1
        self.running.pop(process_id, None)

    async def list(self) -> tuple[ProcessStatus, ...]:
        return tuple(self.running.values())


@pytest.fixture
def path(short_folder: Path) -> Path:
    return short_folder / "cluster.sock"


@pytest.fixture
def fake() -> FakeProcesses:
    return FakeProcesses()


async def test_what_the_owner_keeps_for_itself_is_only_looked_at(fake: FakeProcesses, path: Path) -> None:
    other = FakeProcesses()
    await other.start(make_spec("", "door-0"))
    await fake.start(make_spec("", "replica"))
    service = ProcessService(fake, path, others=(other,))
    await service.open()
    remote = RemoteProcesses(path)
    assert [one.process_id for one in await remote.list()] == ["replica"]
    assert [one.process_id for one in await remote.list_with_others()] == ["door-0", "replica"]
    fake.gate.set()
    await remote.stop("door-0")
    assert list(other.running) == ["door-0"]
    await service.close()


async def test_a_socket_that_cannot_be_made_is_said(fake: FakeProcesses, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="missing"):
        await ProcessService(fake, tmp_path / "none" / "s").open()


@pytest.fixture
async def service(fake: FakeProcesses, path: Path) -> AsyncIterator[ProcessService]:
    service = ProcessService(fake, path)
    await service.open()
    yield service
    fake.gate.set()
    await service.close()


@pytest.fixture
def remote(service: ProcessService, path: Path) -> RemoteProcesses:
    return RemoteProcesses(path, timeout_ms=3_000, stop_timeout_ms=3_000)


async def raw(path: Path, content: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(content)
    try:
        async with asyncio.timeout(5):
            return await reader.readline()
    finally:
        writer.close()


async def test_start_list_stop(remote: RemoteProcesses, fake: FakeProcesses) -> None:
    fake.gate.set()
    spec = make_spec("", labels={"deployment": "small"})
    started = await remote.start(spec)
    assert started == await remote.start(spec)
    assert (started.process_id, started.labels) == ("a", {"deployment": "small"})
    assert await remote.list() == (started,)
    await remote.stop("a")
    await remote.stop("a")
    assert await remote.list() == ()


async def test_the_socket_is_private(service: ProcessService, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_refusal_arrives_as_its_sentence(remote: RemoteProcesses) -> None:
    with pytest.raises(UnavailableError, match="there is no room"):
        await remote.start(make_spec("", "bad"))
    with pytest.raises(UnavailableError, match="open files cannot travel"):
        await remote.start(make_spec("", pass_fds=(1,)))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"not json\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"call": "format"}\n',
        b'{"call": "stop"}\n',
        b'{"call": "stop", "process_id": 1}\n',
    ],
)
async def test_garbage_is_answered_and_harms_nobody(remote: RemoteProcesses, path: Path, garbage: bytes) -> None:
    assert "this is not a call" in msgspec.json.decode(await raw(path, garbage))["error"]
    assert await remote.list() == ()


async def test_an_endless_call_is_refused(remote: RemoteProcesses, path: Path) -> None:
    answer = await raw(path, b"x" * (4 * 1024 * 1024 + 100_000))
    assert b"longer than" in answer
    assert await remote.list() == ()


async def test_half_a_call_is_no_call(remote: RemoteProcesses, path: Path, fake: FakeProcesses) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"call": "stop", "process_id": "a"}')
    writer.close()
    await writer.wait_closed()
    assert await remote.list() == ()
    assert fake.stops == 0


async def test_a_client_that_dies_does_not_undo_its_call(
    remote: RemoteProcesses, path: Path, fake: FakeProcesses
) -> None:
    await remote.start(make_spec(""))
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"call": "stop", "process_id": "a"}\n')
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    fake.gate.set()
    async with asyncio.timeout(5):
        while await remote.list():
            await asyncio.sleep(0.01)
    assert fake.stops == 1


async def test_a_slow_stop_holds_nobody_up_and_has_an_end(
    remote: RemoteProcesses, path: Path, fake: FakeProcesses
) -> None:
    impatient = RemoteProcesses(path, stop_timeout_ms=50)
    with pytest.raises(UnavailableError, match="within 50 ms"):
        await impatient.stop("a")
    assert await remote.list() == ()


async def test_many_clients_at_once_are_bounded(remote: RemoteProcesses, path: Path) -> None:
    connections = [await asyncio.open_unix_connection(path) for _ in range(64)]
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await remote.list()
    for _, writer in connections:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections))
    assert await remote.list() == ()


async def test_nobody_there_is_a_sentence(path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await RemoteProcesses(path).list()


async def test_an_owner_that_was_restarted_is_found_again(path: Path, fake: FakeProcesses) -> None:
    remote = RemoteProcesses(path)
    first = ProcessService(fake, path)
    await first.open()
    assert await remote.list() == ()
    await first.close()
    late = asyncio.create_task(remote.list())
    await asyncio.sleep(0.05)
    path.touch()  # A socket file that a killed owner left behind.
    second = ProcessService(fake, path)
    await second.open()
    assert await late == ()
    await second.close()
    assert not path.exists()


@pytest.mark.parametrize(
    "answer", [b"nonsense\n", b'{"processes": 5}\n', b'{"processes": []}\n', b"{", b"x" * (5 << 20)]
)
async def test_an_owner_that_talks_nonsense_is_a_sentence(path: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(talk, path)
    with pytest.raises(UnavailableError):
        await RemoteProcesses(path, timeout_ms=5_000).start(make_spec(""))
    server.close()
    await server.wait_closed()


async def test_real_processes_travel(short_folder: Path, path: Path) -> None:
    local: LocalProcesses = make_local(short_folder)
    service = ProcessService(local, path)
    await service.open()
    remote = RemoteProcesses(path)
    try:
        await remote.start(make_spec(ANNOUNCE, labels={"key": "k"}))
        async with asyncio.timeout(10):
            while (await remote.list())[0].address is None:
                await asyncio.sleep(0.02)
        assert (await remote.list())[0].labels == {"key": "k"}
        with pytest.raises(UnavailableError, match="there is no program"):
            await remote.start(ProcessSpec("b", ("/nonexistent",), {}, "b"))
        await remote.stop("a")
        assert await local.list() == ()
    finally:
        await service.close()
        await local.stop_all()
