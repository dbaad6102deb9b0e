"""A door in this process, between a raw client and a replica that does what a test says."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tokenworks.gateway.door import Door
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.config import GatewaySettings
from tokenworks.kit.errors import StorageFullError
from tokenworks.kit.ids import SequenceIds
from tokenworks.metering.model import Closed, Opened, Progress, Record
from tokenworks.metering.ports import Durable
from tokenworks.region.model import Snapshot, SnapshotDeployment, SnapshotKey, SnapshotReplica

KEY = "tw-good"
MODEL = "tiny"


class MemoryJournal:
    """A journal whose durability a test can hold back."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.is_held = False
        self.is_full = False
        self.failure: Exception | None = None
        self._waiting: list[tuple[int, Durable]] = []

    def append(self, record: Record) -> int:
        if self.is_full and isinstance(record, Opened):
            raise StorageFullError("the disk of the journal is full")
        self.records.append(record)
        return len(self.records)

    def when_durable(self, position: int, callback: Durable) -> None:
        self._waiting.append((position, callback))
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self, upto: int | None = None) -> None:
        ready = [pair for pair in self._waiting if upto is None or pair[0] <= upto]
        self._waiting = [pair for pair in self._waiting if pair not in ready]
        for _, callback in ready:
            callback(self.failure)

    @property
    def closed(self) -> list[Closed]:
        return [record for record in self.records if isinstance(record, Closed)]

    @property
    def opened(self) -> list[Opened]:
        return [record for record in self.records if isinstance(record, Opened)]

    @property
    def progress(self) -> list[Progress]:
        return [record for record in self.records if isinstance(record, Progress)]


def chunk_event(output: int, text: str = "x", *, index: int = 0, prompt: int = 7, cached: int = 2) -> bytes:
    body = {
        "choices": [{"finish_reason": None, "index": index, "delta": {"content": text}}],
        "created": 1,
        "id": "chatcmpl-1",
        "model": MODEL,
        "system_fingerprint": "b0",
        "object": "chat.completion.chunk",
        "timings": {
            "cache_n": cached,
            "prompt_n": prompt - cached,
            "prompt_ms": 1.5,
            "predicted_n": output,
            "predicted_ms": 2.5,
        },
    }
    return _event(body)


def role_event(index: int = 0) -> bytes:
    return _event(_chunk([{"finish_reason": None, "index": index, "delta": {"role": "assistant", "content": None}}]))


def progress_event(processed: int, total: int = 7, cache: int = 2) -> bytes:
    body = _chunk([{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}])
    body["timings"] = {"cache_n": cache, "prompt_n": processed - cache, "predicted_n": 0, "predicted_ms": 0.0}
    body["prompt_progress"] = {"total": total, "cache": cache, "processed": processed, "time_ms": 1}
    return _event(body)


def finish_event(reason: str = "stop", index: int = 0) -> bytes:
    return _event(_chunk([{"finish_reason": reason, "index": index, "delta": {}}]))


def usage_event(output: int, prompt: int = 7, cached: int = 2) -> bytes:
    body = _chunk([])
    body["usage"] = {
        "completion_tokens": output,
        "prompt_tokens": prompt,
        "total_tokens": output + prompt,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    body["timings"] = {"cache_n": cached, "prompt_n": prompt - cached, "predicted_n": output, "predicted_ms": 2.5}
    return _event(body)


DONE = b"data: [DONE]\n\n"


def _chunk(choices: list[dict[str, object]]) -> dict[str, object]:
    return {
        "choices": choices,
        "created": 1,
        "id": "chatcmpl-1",
        "model": MODEL,
        "system_fingerprint": "b0",
        "object": "chat.completion.chunk",
    }


def _event(body: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def answer_events(tokens: int) -> list[bytes]:
    """A whole answer as llama.cpp sends it."""
    content = [chunk_event(number, f"t{number} ") for number in range(1, tokens + 1)]
    return [progress_event(7), role_event(), *content, finish_event("length"), usage_event(tokens), DONE]


class Call:
    """One request as a replica sees it."""

    def __init__(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.body: dict[str, object] = json.loads(body)
        self._reader = reader
        self._writer = writer

    async def begin(self) -> None:
        self._writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await self._writer.drain()

    async def send(self, *events: bytes) -> None:
        for event in events:
            self._writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def answer(self, events: list[bytes]) -> None:
        await self.begin()
        await self.send(*events)
        await self.end()

    async def refuse(self, status: int, body: bytes) -> None:
        self._writer.write(b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        await self._writer.drain()

    def die(self) -> None:
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the door has closed the connection."""
        while await self._reader.read(1024):
            pass


Behaviour = Callable[[Call], Awaitable[None]]


class RawServer:
    """Takes whole requests off its connections and hands them to `answer`, one after the other."""

    def __init__(self) -> None:
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                await self.answer(head, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


class FakeReplica(RawServer):
    """Speaks llama.cpp's protocol; each request runs `behaviour`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.behaviour: Behaviour = _whole_answer
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def answer(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        call = Call(body, reader, writer)
        self.calls.append(call)
        await self.behaviour(call)


async def _whole_answer(call: Call) -> None:
    tokens = call.body["max_tokens"]
    assert isinstance(tokens, int)
    await call.answer(answer_events(min(tokens, 5)))


@dataclass
class Reply:
    """One answer as a raw client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(self.body)
        return parsed

    @property
    def error(self) -> dict[str, object]:
        error = self.json["error"]
        assert isinstance(error, dict)
        return error

    @property
    def events(self) -> list[bytes]:
        return [event[6:] for event in self.body.split(b"\n\n") if event.startswith(b"data: ")]


class RawClient:
    """A client that can misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split(" ")[1]), headers

    async def read_chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def read_reply(self) -> Reply:
        status, headers = await self.read_head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self.read_chunk():
                body += piece
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Reply(status, headers, body)

    async def chat(self, **parameters: object) -> Reply:
        await self.send(chat_request(**parameters))
        return await self.read_reply()

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Reply:
        await self.send(http_request(method, path, body, headers))
        return await self.read_reply()

    def close(self) -> None:
        self.writer.transport.abort()


def http_request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chat_request(**parameters: object) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **parameters}
    return http_request("POST", "/v1/chat/completions", json.dumps(body).encode())


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def caught_bugs() -> list[object]:
    """What reaches the loop's handler of exceptions from now on."""
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context.get("exception")))
    return bugs


@dataclass
class Scene:
    """A door, its journal, its replica and its clients."""

    door: Door
    journal: MemoryJournal
    replica: FakeReplica
    address: tuple[str, int]
    clients: list[RawClient] = field(default_factory=list)
    slots: int = 4

    async def client(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def slow_client(self) -> RawClient:
        """A client that reads only what a test asks for, on a connection that keeps little under way."""
        one = socket.socket()
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        count = len(self.door.connections)
        await asyncio.get_running_loop().sock_connect(one, self.address)
        await until(lambda: len(self.door.connections) > count)
        for connection in self.door.connections:
            if connection._transport is not None:
                there = connection._transport.get_extra_info("socket")
                there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        client = RawClient(*await asyncio.open_connection(sock=one, limit=1024))
        self.clients.append(client)
        return client

    @property
    def unsent_bytes(self) -> int:
        """What the door holds for clients that do not read."""
        transports = [connection._transport for connection in self.door.connections]
        return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)

    @property
    def is_stalled(self) -> bool:
        """True when the door waits for a client to read."""
        return any(connection._stalled_since is not None for connection in self.door.connections)

    def publish(self, *, replicas: tuple[SnapshotReplica, ...] | None = None, etag: str = "e") -> None:
        if replicas is None:
            replicas = (SnapshotReplica("rep_1", "127.0.0.1", self.replica.port, "replica-key", self.slots),)
        keys = (
            SnapshotKey(digest(KEY), "key_1", "acme", "default", ("inference",)),
            SnapshotKey(digest("tw-revoked"), "key_2", "acme", "default", ("inference",), is_revoked=True),
            SnapshotKey(digest("tw-expired"), "key_3", "acme", "default", ("inference",), expires_at_ms=1),
            SnapshotKey(digest("tw-hub"), "key_4", "acme", "default", ("hub:read",)),
        )
        deployment = SnapshotDeployment(
            name=MODEL,
            aliases=("default/Tiny",),
            engine="llamacpp",
            context_tokens=128,
            output_tokens_max=64,
            slots=self.slots,
            created_at_s=1,
            owner="default",
            is_ready=bool(replicas),
            reason="" if replicas else "its replica is starting",
            replicas=replicas,
        )
        self.door.apply(Snapshot(etag, 1, keys, (deployment,)))

    async def settled(self, count: int = 1) -> list[Closed]:
        """Wait until that many requests have been closed, and nothing runs."""
        async with asyncio.timeout(10):
            while len(self.journal.closed) < count or self.door.exchanges:
                await asyncio.sleep(0.001)
        return self.journal.closed


@asynccontextmanager
async def scene(slots: int = 4, **settings: int) -> AsyncIterator[Scene]:
    """Start all of it, and check at the end that nothing is left behind."""
    values = GatewaySettings(**{"progress_ms": 20, **settings})
    journal = MemoryJournal()
    door = Door(values, journal, SystemClock(), SequenceIds(), "unix:/nonexistent/control.sock")
    replica = FakeReplica()
    await replica.start()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ClientConnection(door), "127.0.0.1", 0)
    ticking = loop.create_task(_tick(door))
    made = Scene(door, journal, replica, server.sockets[0].getsockname()[:2], slots=slots)
    made.publish()
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
        async with asyncio.timeout(10):
            while door.connections or door.exchanges or door.relays:
                await asyncio.sleep(0.001)
        ticking.cancel()
        server.close()
        door.control.close()
        made.publish(replicas=())
        await replica.stop()
        await asyncio.sleep(0)
    assert door.body_bytes == 0
    assert door.admission(MODEL).taken == 0
    assert door.admission(MODEL).waiting == 0


async def _tick(door: Door) -> None:
    while True:
        await asyncio.sleep(door.settings.progress_ms / 1000)
        door.tick()
