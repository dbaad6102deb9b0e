"""An HTTP/1.1 client for the addresses of our own system (replicas, control), on httptools and asyncio transports.

Two layers. `Connection` and `Pool` are for the door's hot path: callbacks, no task and no future per request, body
bytes passed on as they arrived. `fetch` is for everything else: one awaited call with a time limit.

Addresses are `"127.0.0.1:4711"` or `"unix:control.sock"`.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from tokenworks.kit.errors import UpstreamError, UpstreamTimeoutError

Header = tuple[bytes, bytes]

_IDLE_S = 4.0
"""An idle connection is used again only within this; llama.cpp closes after 5 s."""


class Receiver(Protocol):
    """Who gets an answer. Exactly one of `on_end` and `on_lost` is the last call."""

    def on_head(self, status: int, headers: list[Header]) -> None:
        """Status and headers have arrived (names as sent)."""
        ...

    def on_body(self, data: bytes) -> None:
        """Body bytes, joined per read."""
        ...

    def on_end(self) -> None:
        """The answer is whole."""
        ...

    def on_lost(self, error: Exception, *, is_stale: bool) -> None:
        """The connection ended first. `is_stale`: it had served before and closed without a byte of this answer."""
        ...


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    __slots__ = (
        "_body",
        "_ended",
        "_head",
        "_is_head",
        "_is_paused",
        "_keep_alive",
        "_loop",
        "_parser",
        "_pool",
        "_receiver",
        "_seen_byte",
        "_status",
        "_transport",
        "_used",
        "idle_since",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._loop = pool.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._head: list[Header] = []
        self._body: list[bytes] = []
        self._status = 0
        self._keep_alive = False
        self._ended = False
        self._seen_byte = False
        self._is_head = False
        self._is_paused = False
        self._used = 0
        self.idle_since = 0.0

    def send(self, data: bytes, receiver: Receiver, *, is_head: bool = False) -> None:
        """Send a whole request; its answer goes to `receiver`. The answer to HEAD has no body, whatever it says."""
        self._receiver = receiver
        self._is_head = is_head
        self._seen_byte = False
        self._used += 1
        transport = self._transport
        if transport is None or transport.is_closing():
            self._loop.call_soon(self._lose, ConnectionResetError("the connection is closed"))
            return
        transport.write(data)

    def abort(self) -> None:
        """Drop the request and its connection at once; the receiver hears nothing more."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading until `resume`: the receiver's own reader is slow."""
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    @property
    def is_usable(self) -> bool:
        """False once the transport is gone or going."""
        return self._transport is not None and not self._transport.is_closing()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen_byte = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(UpstreamError("the upstream tried to switch protocols"))
            return
        except httptools.HttpParserError as error:
            self._fail(UpstreamError(f"the upstream did not speak HTTP: {error}"))
            return
        parts = self._body
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if self._receiver is None:
                self._close()
                return
            try:
                self._receiver.on_body(body)
            except Exception as error:  # noqa: BLE001  # one answer's nonsense must end as that answer's failure
                self._fail(error)
                return
        if self._ended:
            self._ended = False
            self._finish()

    def _finish(self) -> None:
        receiver = self._receiver
        self._receiver = None
        if self._keep_alive and self.is_usable and receiver is not None:
            self.resume()  # whoever paused it has no say in the next answer
            self._pool.release(self)
        else:
            self._close()
        if receiver is None:
            return
        try:
            receiver.on_end()
        except Exception as error:  # noqa: BLE001  # as in data_received
            receiver.on_lost(error, is_stale=False)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        self._lose(exc or ConnectionResetError("the upstream closed the connection"))

    def _fail(self, error: Exception) -> None:
        receiver = self._receiver
        self.abort()
        if receiver is not None:
            receiver.on_lost(error, is_stale=False)

    def _lose(self, error: Exception) -> None:
        receiver = self._receiver
        self._receiver = None
        if receiver is not None:
            receiver.on_lost(error, is_stale=self._used > 1 and not self._seen_byte)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # httptools' side

    def on_message_begin(self) -> None:
        self._head = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.append((name, value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive() and not self._is_head
        self._ended = self._is_head
        if self._receiver is not None and self._status >= 200:
            self._receiver.on_head(self._status, self._head)

    def on_body(self, body: bytes) -> None:
        if not self._is_head:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._ended = True


class HeadlessConnection(Connection):
    """A connection whose answers' headers nobody reads: the parser makes no call for each."""

    __slots__ = ()
    on_header = None  # type: ignore[assignment]  # so the parser knows that there is nobody to call


class Pool:
    """Connections to one address: idle ones are used again, the newest first."""

    def __init__(
        self, address: str, connect_ms_max: int, idle_max: int = 256, kind: type[Connection] = Connection
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.address = address
        self._connect_ms_max = connect_ms_max
        self._idle_max = idle_max
        self._kind = kind
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def take(self) -> Connection | None:
        """An idle connection, or None: then call `connect`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and self.loop.time() - connection.idle_since < _IDLE_S:
                return connection
            connection.abort()
        return None

    def connect(self, then: Callable[[Connection | Exception], None]) -> None:
        """Open a new connection and call `then` with it, or with the reason why there is none."""
        task = self.loop.create_task(self._connect(then))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, then: Callable[[Connection | Exception], None]) -> None:
        result: Connection | Exception
        try:
            async with asyncio.timeout(self._connect_ms_max / 1000):
                result = await self.open()
        except TimeoutError:
            result = UpstreamTimeoutError(f"no connection to {self.address} within {self._connect_ms_max} ms")
        except OSError as error:
            result = error
        then(result)

    async def open(self) -> Connection:
        """Open a new connection.

        Raises:
            OSError: nobody listens there.
        """
        if self.address.startswith("unix:"):
            _, connection = await self.loop.create_unix_connection(lambda: self._kind(self), self.address[5:])
        else:
            host, _, port = self.address.rpartition(":")
            _, connection = await self.loop.create_connection(lambda: self._kind(self), host, int(port))
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back for later use."""
        if self._is_closed or len(self._idle) >= self._idle_max:
            connection.abort()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Drop what is idle; connections in use end with their requests."""
        self._is_closed = True
        for connection in self._idle[:]:
            connection.abort()
        self._idle.clear()

    def drop_idle(self) -> None:
        """Close connections that have been idle too long to be used again."""
        limit = self.loop.time() - _IDLE_S
        while self._idle and self._idle[0].idle_since < limit:
            self._idle.pop(0).abort()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are lower case; of repeated ones the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes


_FETCH_BYTES_MAX = 67_108_864


class _Collector:
    def __init__(self) -> None:
        self.done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_head(self, status: int, headers: list[Header]) -> None:
        self._status = status
        self._headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _FETCH_BYTES_MAX and not self.done.done():
            self.done.set_exception(UpstreamError(f"an answer over {_FETCH_BYTES_MAX} bytes"))

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result(Response(self._status, self._headers, bytes(self._body)))

    def on_lost(self, error: Exception, *, is_stale: bool) -> None:
        if not self.done.done():
            self.done.set_exception(UpstreamError(f"the connection was lost: {error}"))


def request_bytes(
    method: str,
    path: str,
    host: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    close: bool = False,
) -> bytes:
    """A whole request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


async def fetch(
    address: str,
    method: str,
    path: str,
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    timeout_ms: int,
) -> Response:
    """Make one call on a connection of its own.

    Raises:
        UpstreamError: nobody listens, the connection was lost, or the answer is not HTTP.
        UpstreamTimeoutError: no whole answer within `timeout_ms`.
    """
    pool = Pool(address, timeout_ms)
    collector = _Collector()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            connection = await pool.open()
            host = "localhost" if address.startswith("unix:") else address
            connection.send(request_bytes(method, path, host, headers, body, close=True), collector)
            return await collector.done
    except TimeoutError as error:
        raise UpstreamTimeoutError(f"{method} {path} on {address}: no answer within {timeout_ms} ms") from error
    except OSError as error:
        raise UpstreamError(f"{method} {path} on {address}: {error}") from error
    finally:
        if connection is not None:
            connection.abort()
        pool.close()
