"""Everything that is not the door's own goes to control over its unix socket, and back, bytes as they are."""

from tokenworks.gateway import answers
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.gateway.request import Request
from tokenworks.gateway.state import DoorState
from tokenworks.kit.errors import NoCapacityError, TokenworksError, UnavailableError
from tokenworks.kit.http1 import Connection, Header

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
        b"x-request-id",
    }
)
_SAFE = (b"GET", b"HEAD")


class RelayExchange:
    """One relayed request. The receiver of control's answer."""

    __slots__ = ("_begun", "_client", "_connection", "_door", "_is_gone", "_is_head", "_last_heard", "_request")

    def __init__(self, door: DoorState, client: ClientConnection, request: Request) -> None:
        self._door = door
        self._client = client
        self._request = request
        self._connection: Connection | None = None
        self._begun = False
        self._is_gone = False
        self._is_head = request.method == b"HEAD"
        self._last_heard = door.loop.time()

    def start(self) -> None:
        """Send it.

        Raises:
            NoCapacityError: too many are under way.
        """
        if len(self._door.relays) >= self._door.settings.relays_max:
            raise NoCapacityError("this door relays all it can to control; try again later")
        self._door.relays.add(self)
        # A connection that was used before may turn out to be closed; what must not happen twice gets a new one.
        connection = self._door.control.take() if self._request.method in _SAFE else None
        if connection is not None:
            self._send(connection)
        else:
            self._door.control.connect(self._on_connected)

    def _on_connected(self, result: Connection | Exception) -> None:
        if self._is_gone:
            if isinstance(result, Connection):
                result.abort()
        elif isinstance(result, Connection):
            self._send(result)
        else:
            self._fail("control does not answer; it may be starting")

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        request = self._request
        lines = [b"%s %s HTTP/1.1\r\n" % (request.method, request.target)]
        lines += [b"%s: %s\r\n" % header for header in request.headers if header[0].lower() not in _HOP_BY_HOP]
        lines.append(
            b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (request.request_id.encode(), len(request.body))
        )
        connection.send(b"".join(lines) + request.body, self, is_head=self._is_head)

    def on_head(self, status: int, headers: list[Header]) -> None:
        """Pass the head on; the length of the body is kept where it is known."""
        self._last_heard = self._door.loop.time()
        length = next((value for name, value in headers if name.lower() == b"content-length"), None)
        has_body = not self._is_head and status not in (204, 304)
        is_chunked = has_body and length is None and self._request.minor == 1
        if self._door.is_draining or (has_body and length is None and not is_chunked):
            self._request.keep_alive = False
        lines = [answers.status_line(status)]
        lines += [b"%s: %s\r\n" % header for header in headers if header[0].lower() not in _HOP_BY_HOP]
        if length is not None:
            lines.append(b"content-length: %s\r\n" % length)
        if is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self._request.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"x-request-id: %s\r\n\r\n" % self._request.request_id.encode())
        self._begun = True
        self._client.begin_relay(b"".join(lines), is_chunked=is_chunked)

    def on_body(self, data: bytes) -> None:
        """Pass body bytes on."""
        self._last_heard = self._door.loop.time()
        if data and not self._is_gone:
            self._client.write_data(data)

    def on_end(self) -> None:
        """The answer is whole."""
        self._leave()
        self._connection = None
        self._client.finish_relay()

    def on_lost(self, error: Exception, *, is_stale: bool) -> None:
        """Control went away."""
        self._connection = None
        if self._is_gone:
            return
        if is_stale and self._request.method in _SAFE:
            self._door.control.connect(self._on_connected)
            return
        self._fail("control went away while it answered")

    def check_times(self, now: float) -> None:
        """Called about twice a second: control must say something in time."""
        limit = self._door.settings.stall_ms_max
        if (now - self._last_heard) * 1000 > limit:
            self._fail(f"control said nothing for {limit} ms")

    def _fail(self, reason: str) -> None:
        self.fail(UnavailableError(reason, code="control_unavailable"))

    def fail(self, error: TokenworksError) -> None:
        """End it with this error."""
        if self._is_gone:
            return
        self._leave()
        if self._connection is not None:
            self._connection.abort()
        if self._begun:
            self._client.break_stream()
        else:
            self._client.refuse(error)

    def _leave(self) -> None:
        self._is_gone = True
        self._door.end_relay(self)

    def on_client_lost(self) -> None:
        """Nobody wants the answer any more."""
        self._leave()
        if self._connection is not None:
            self._connection.abort()

    def pause(self) -> None:
        """The client reads too slowly."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self._last_heard = self._door.loop.time()
        if self._connection is not None:
            self._connection.resume()
