"""A client's HTTP/1.1 connection: bytes to whole requests, answers to bytes, one at a time and in order.

Limits are kept here: headers, body, bodies of all connections together, times, unsent bytes. A request that breaks one
is read to its end without being kept (a client often reads no answer before it has sent everything) and answered then,
or at its time limit. Reading is paused only while pipelined requests wait, so that a client that leaves is noticed.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

from tokenworks.gateway import answers
from tokenworks.gateway.ports import Handler
from tokenworks.gateway.request import Request
from tokenworks.kit.config import GatewaySettings
from tokenworks.kit.errors import (
    InvalidRequestError,
    NoCapacityError,
    RequestTimeoutError,
    TokenworksError,
    TooLargeError,
)


class Host(Protocol):
    """What a connection needs from its door."""

    loop: asyncio.AbstractEventLoop
    settings: GatewaySettings
    is_draining: bool
    body_bytes: int
    """Request bodies held by all connections."""

    def enter(self, connection: "ClientConnection") -> bool:
        """Count a connection; False when there are too many."""
        ...

    def leave(self, connection: "ClientConnection") -> None:
        """A connection has ended."""
        ...

    def new_request_id(self) -> str:
        """An id that no client chose."""
        ...

    def check_head(self, request: Request) -> TokenworksError | None:
        """What can be refused before the body is read."""
        ...

    def handle(self, client: "ClientConnection", request: Request) -> Handler | None:
        """Answer a request, or return who will."""
        ...


_IDLE, _HEAD, _BODY = range(3)
_HEADERS_MAX = 256
_QUEUED_PAUSE, _QUEUED_MAX = 16, 64
"""Pipelined requests that wait: from the first number on reading is paused, beyond the second it is an abuse."""
_LINGER_MS = 2_000
"""After refusing a request that is still being sent, its rest is read and dropped for this long."""


class ClientConnection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_door",
        "_handler",
        "_is_chunked",
        "_is_closing",
        "_lingers",
        "_loop",
        "_parser",
        "_phase",
        "_queue",
        "_request",
        "_since",
        "_stalled_since",
        "_transport",
        "_unheard",
        "current",
    )

    def __init__(self, door: Host) -> None:
        self._door = door
        self._loop = door.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unheard = 0
        self._queue: deque[Request] = deque()
        self._handler: Handler | None = None
        self.current: Request | None = None
        self._phase = _IDLE
        self._since = 0.0
        self._stalled_since: float | None = None
        self._is_chunked = False
        self._is_closing = False
        self._lingers = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._door.settings.write_buffer_bytes)
        self._since = self._loop.time()
        if not self._door.enter(self):
            full = NoCapacityError("this door has all the connections it can hold", code="too_many_connections")
            self._refuse_now(full, lingers=False)
            self._loop.call_later(_LINGER_MS / 1000, self._abort)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._unheard += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._on_parser_error(error)
            return
        # What the parser keeps to itself is a head, a trailer or a chunk's line that is not at its end.
        if self._unheard > self._door.settings.header_bytes_max:
            self._refuse_now(_headers_too_large(self._door.settings.header_bytes_max))

    def _on_parser_error(self, error: Exception) -> None:
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if isinstance(cause, TokenworksError):
            self._refuse_now(cause)
        elif cause is not None:
            self._door.loop.call_exception_handler({"message": "a request callback failed", "exception": cause})
            self._abort()
        else:
            self._refuse_now(InvalidRequestError(f"this is not HTTP/1.1: {error}", code="invalid_http"))

    def pause_writing(self) -> None:
        self._stalled_since = self._loop.time()
        if self._handler is not None:
            self._handler.pause()

    def resume_writing(self) -> None:
        self._stalled_since = None
        if self._handler is not None:
            self._handler.resume()
        elif self._queue:
            self._loop.call_soon(self._serve_next)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._is_closing = True
        self._door.leave(self)
        self._door.body_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body.clear()
        for request in self._queue:
            self._door.body_bytes -= len(request.body)
        self._queue.clear()
        self._request = None
        handler = self._handler
        if handler is not None:
            handler.on_client_lost()
        self._end_current()

    # httptools' side

    def on_message_begin(self) -> None:
        self._request = Request(self._door.new_request_id())
        self._phase = _HEAD
        self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        assert request is not None
        if self._phase == _BODY:  # a trailer: nothing that we act on may come after the head was judged
            return
        request.headers.append((name, value))
        size = len(name)
        if size == 13:
            if name.lower() == b"authorization":
                request.authorization = value
        elif size == 12:
            if name.lower() == b"x-request-id":
                request.client_id = value
        elif size == 14:
            if name.lower() == b"content-length" and value.isdigit():
                request.announced = int(value)
        elif size == 6 and name.lower() == b"expect":
            request.expect = value.lower()
        if len(request.headers) > _HEADERS_MAX:
            raise TooLargeError(f"more than {_HEADERS_MAX} headers", code="headers_too_large", status=431)

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        parser = self._parser
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():
            raise InvalidRequestError("switching protocols is not supported", code="invalid_http")
        version = parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise InvalidRequestError(f"HTTP/{version} is not spoken here", code="invalid_http")
            request.minor = 0
        limit = self._door.settings.header_bytes_max
        if self._unheard > limit and _head_size(request) > limit:
            raise _headers_too_large(limit)
        self._unheard = 0
        self._phase = _BODY
        self._since = self._loop.time()
        door = self._door
        request.error = door.check_head(request)
        if request.announced > door.settings.body_bytes_max and request.error is None:
            request.error = _body_too_large(door.settings.body_bytes_max)
        if request.expect:
            self._answer_expect(request)

    def _answer_expect(self, request: Request) -> None:
        """The client waits for a word before it sends its body."""
        if request.expect != b"100-continue":
            raise InvalidRequestError("this Expect header is not understood", code="invalid_http", status=417)
        if request.error is not None:
            raise request.error
        if request.minor == 1 and self.current is None and not self._queue:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self._request
        assert request is not None
        self._unheard = 0
        if request.error is not None:
            return
        size = len(body)
        self._body_bytes += size
        self._door.body_bytes += size
        self._body.append(body)
        settings = self._door.settings
        if self._body_bytes > settings.body_bytes_max:
            self._drop_body(request, _body_too_large(settings.body_bytes_max))
        elif self._door.body_bytes > settings.bodies_bytes_max:
            self._drop_body(request, NoCapacityError("this door holds all the request bodies it can; try again later"))

    def _drop_body(self, request: Request, error: TokenworksError) -> None:
        request.error = error
        self._body.clear()
        self._door.body_bytes -= self._body_bytes
        self._body_bytes = 0

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        if self._is_closing:  # it was read together with one whose answer said that it is the last
            return
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
            self._body_bytes = 0
        self._request = None
        self._unheard = 0
        self._phase = _IDLE
        self._since = self._loop.time()
        if self.current is not None or self._queue or self._stalled_since is not None:
            self._enqueue(request)
        else:
            self._serve(request)

    def _enqueue(self, request: Request) -> None:
        """Keep a pipelined request. Reading goes on for a while, so that a client that leaves is noticed."""
        self._queue.append(request)
        if len(self._queue) > _QUEUED_MAX:
            self._abort()
        elif len(self._queue) == _QUEUED_PAUSE and self._transport is not None:
            self._transport.pause_reading()

    # answers

    def _serve(self, request: Request) -> None:
        self.current = request
        if request.error is not None:
            self.refuse(request.error)
            return
        try:
            handler = self._door.handle(self, request)
        except Exception as error:  # noqa: BLE001  # a bug: this request is a 500, the door goes on
            self._loop.call_exception_handler({"message": "a request failed by a bug", "exception": error})
            self.refuse(TokenworksError("this request failed by an error of the server"))
            return
        if self.current is request:
            self._handler = handler
            if self._stalled_since is not None and handler is not None:
                handler.pause()

    def refuse(self, error: TokenworksError) -> None:
        """Answer the current request with an error."""
        extra = b"retry-after: 1\r\n" if error.http_status in (429, 503) else b""
        self.respond(error.http_status, answers.JSON, answers.error_body(error), extra)

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        """Answer the current request with a whole body."""
        request = self.current
        if request is None:
            return
        head = answers.whole_head(
            status, content_type, len(body), request.request_id.encode(), keep_alive=self._keeps_alive(), extra=extra
        )
        self._write(head if request.method == b"HEAD" else head + body)
        self.finish()

    def begin_stream(self) -> bytes:
        """Return the head of an event stream for the current request; write it with the first data."""
        request = self.current
        assert request is not None
        self._is_chunked = request.minor == 1
        return answers.stream_head(
            request.request_id.encode(), is_chunked=self._is_chunked, keep_alive=self._keeps_alive()
        )

    def begin_relay(self, head: bytes, *, is_chunked: bool) -> None:
        """Write a head that was made elsewhere."""
        self._is_chunked = is_chunked
        self._write(head)

    def write_data(self, data: bytes, head: bytes = b"") -> None:
        """Write body bytes of a begun answer."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._is_chunked:
            transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            transport.write(head + data)

    def finish_stream(self, data: bytes, head: bytes = b"") -> None:
        """Write the last body bytes and end the answer."""
        if self._is_chunked:
            self._write(head + (answers.chunk(data) if data else b"") + answers.LAST_CHUNK)
        else:
            self._write(head + data)
        self.finish(must_close=not self._is_chunked)

    def finish_relay(self) -> None:
        """End an answer that was begun with `begin_relay`."""
        if self._is_chunked:
            self._write(answers.LAST_CHUNK)
        self.finish()

    def break_stream(self, data: bytes = b"") -> None:
        """End a begun answer so that the client can see that it is not whole."""
        if data:
            self.write_data(data)
        self._end_current()
        self._close()

    def finish(self, *, must_close: bool = False) -> None:
        """The current answer is written; go on with the next request."""
        closes = must_close or not self._keeps_alive()
        self._end_current()
        if closes:
            self._close()
            return
        self._since = self._loop.time()
        if self._queue:
            self._loop.call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if self.current is not None or self._is_closing or not self._queue or self._stalled_since is not None:
            return
        request = self._queue.popleft()
        if len(self._queue) == _QUEUED_PAUSE - 1 and self._transport is not None:
            self._transport.resume_reading()
        self._serve(request)

    def _end_current(self) -> None:
        if self.current is not None:
            self._door.body_bytes -= len(self.current.body)
        self.current = None
        self._handler = None

    def _keeps_alive(self) -> bool:
        return self.current is not None and self.current.keep_alive and not self._door.is_draining

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # the end

    def check_times(self, now: float) -> None:
        """Called about twice a second: end what takes too long."""
        settings = self._door.settings
        if self._stalled_since is not None and (now - self._stalled_since) * 1000 > settings.write_stall_ms_max:
            self._abort()
            return
        waited_ms = (now - self._since) * 1000
        if self._is_closing:
            if waited_ms > (_LINGER_MS if self._lingers else settings.body_wait_ms_max):
                self._abort()
        elif self.current is not None or self._queue:
            return
        elif self._phase == _HEAD and waited_ms > settings.head_wait_ms_max:
            self._refuse_now(RequestTimeoutError(f"no whole headers within {settings.head_wait_ms_max} ms"))
        elif self._phase == _BODY and waited_ms > settings.body_wait_ms_max:
            self._refuse_now(RequestTimeoutError(f"no whole body within {settings.body_wait_ms_max} ms"))
        elif self._phase == _IDLE and waited_ms > settings.idle_ms_max:
            self._close()

    def drain(self) -> None:
        """The door is stopping: close now if idle, else after the current answer."""
        if self.current is None and not self._queue:
            self._close()

    def _refuse_now(self, error: TokenworksError, *, lingers: bool = True) -> None:
        """Answer a request that cannot be read to its end, and close."""
        if self.current is not None or self._queue:
            self._abort()
            return
        request = self._request or Request(self._door.new_request_id())
        if request.error is not None and isinstance(error, RequestTimeoutError):
            error = request.error
        request.keep_alive = False
        self.current = request
        self._lingers = lingers
        self.refuse(error)

    def _close(self) -> None:
        self._is_closing = True
        self._since = self._loop.time()
        if self._transport is None or self._transport.is_closing():
            return
        if self._lingers:
            self._transport.write_eof()  # closing with unread input would reset it before the answer is read
        else:
            self._transport.close()

    def _abort(self) -> None:
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()


def _head_size(request: Request) -> int:
    return len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)


def _headers_too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the request line and headers are over {limit} bytes", code="headers_too_large", status=431)


def _body_too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the request body is over {limit} bytes", code="request_too_large")
