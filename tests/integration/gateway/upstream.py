"""A control that answers byte by byte as a test says, on a unix socket or on TCP."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.gateway.harness import RawServer, Scene, scene
from tokenworks.kit.http1 import Connection, Pool


class Asked:
    """One request as the upstream sees it."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.body = body
        self.method, self.target, _ = head.split(b"\r\n")[0].decode().split(" ")
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self, body: bytes = b"", status: int = 200, headers: bytes = b"") -> None:
        """A whole answer; to HEAD without its body."""
        head = b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n" % (status, headers, len(body))
        await self.send(head if self.method == "HEAD" else head + body)

    async def gone(self) -> None:
        """Wait until the other side has closed the connection."""
        while await self._reader.read(1024):
            pass

    def close(self) -> None:
        self._writer.close()

    def die(self) -> None:
        self._writer.transport.abort()


Answering = Callable[[Asked], Awaitable[None]]


class FakeUpstream(RawServer):
    """Reads whole requests; each runs `answering`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.answering: Answering = say_hello
        self.address = ""

    async def start(self, path: Path | None) -> None:
        if path is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        else:
            self._server = await asyncio.start_unix_server(self._serve, path)
            self.address = f"unix:{path}"

    async def answer(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = Asked(head, body, reader, writer)
        self.asked.append(asked)
        await self.answering(asked)


async def say_hello(asked: Asked) -> None:
    await asked.reply(b"hello")


async def say_nothing(asked: Asked) -> None:
    await asked.gone()


class HeldPool(Pool):
    """A pool whose new connections come when the test brings them."""

    def __init__(self, address: str) -> None:
        super().__init__(address, 1000)
        self.held: list[Callable[[Connection | Exception], None]] = []

    def connect(self, then: Callable[[Connection | Exception], None]) -> None:
        self.held.append(then)


@asynccontextmanager
async def upstream(*, is_unix: bool = True) -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream()
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        await fake.start(Path(folder) / "control.sock" if is_unix else None)
        try:
            yield fake
        finally:
            await fake.stop()


@asynccontextmanager
async def controlled_scene(**settings: int) -> AsyncIterator[tuple[Scene, FakeUpstream]]:
    """A scene whose door relays to a fake control."""
    async with upstream() as fake, scene(**settings) as made:
        made.door.control = Pool(fake.address, made.door.settings.connect_ms_max)
        yield made, fake
