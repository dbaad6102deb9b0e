"""Executes calls against a running tokenworks, over `http.client` alone: it starts fast and needs no event loop.

Invariants: one connection per call, closed when the call ends, however it ends; every wait has a limit; a failure of
the network, the server or the answer is a `TokenworksError` whose message a person can act on.
"""

import http.client
import re
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec

from tokenworks.client.call import Call
from tokenworks.client.stream import read_events
from tokenworks.kit.errors import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RequestTimeoutError,
    TokenworksError,
    TooLargeError,
    UnavailableError,
    UpstreamError,
    UpstreamTimeoutError,
)

Request = TypeVar("Request")
Response = TypeVar("Response")

_ERRORS: dict[int, type[TokenworksError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: RequestTimeoutError,
    409: ConflictError,
    413: TooLargeError,
    431: TooLargeError,
    502: UpstreamError,
    503: UnavailableError,
    504: UpstreamTimeoutError,
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ERROR_BYTES_MAX = 65_536


class Client:
    """Calls one tokenworks with one key. Holds no connection, so it needs no closing."""

    def __init__(self, url: str, key: str = "", *, timeout_s: float = 60) -> None:
        self.url = url.rstrip("/")
        self._parts = _parse_url(self.url)
        self._key = key
        self._timeout_s = timeout_s

    def call(self, call: Call[Request, Response], request: Request | None = None) -> Response:
        """Execute a declared call.

        Raises:
            TokenworksError: the class of `kit/errors.py` that has the answer's status, with the server's sentence.
            UnavailableError: nobody answers, or the connection broke.
            UpstreamError: the answer is not what the call declares.
        """
        target, body = make_target(call, request)
        with self._exchange(call.method, target, body) as response:
            content = self._read(response)
        try:
            return msgspec.json.decode(content or b"null", type=call.response)
        except msgspec.DecodeError as error:
            raise UpstreamError(
                f"{self.url} gave an answer that this version cannot read ({error}); are both the same version?"
            ) from error

    def stream(self, path: str, body: object) -> Generator[bytes]:
        """POST `body` as JSON and yield the payload of each server-sent event, up to `[DONE]`.

        Closing the iterator closes the connection, which cancels the work behind it.

        Raises:
            TokenworksError: as `call`; also when an event carries an error, or the stream ends before `[DONE]`.
        """
        with self._exchange("POST", path, msgspec.json.encode(body)) as response:
            try:
                for event in read_events(response):
                    _raise_event_error(event)
                    yield event
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(error) from error

    @contextmanager
    def _exchange(self, method: str, target: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect()
        try:
            try:
                connection.request(method, self._parts.path + target, body, self._headers(body))
                response = connection.getresponse()
            except ValueError as error:
                raise InvalidRequestError(f"cannot ask {self.url}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(error) from error
            with response:  # it holds the socket by itself once the connection has handed it over
                if response.status >= 300:
                    raise error_of(response.status, self._read(response, _ERROR_BYTES_MAX), self.url)
                yield response
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Connection": "close", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def _read(self, response: http.client.HTTPResponse, limit: int | None = None) -> bytes:
        try:
            return response.read(limit)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> TokenworksError:
        if isinstance(error, TimeoutError):
            return UnavailableError(f"{self.url} did not answer within {self._timeout_s} seconds")
        if isinstance(error, ssl.SSLError):
            return UnavailableError(f"no secure connection to {self.url}: {error}")
        if isinstance(error, ConnectionRefusedError):
            return UnavailableError(f"no tokenworks answers at {self.url}; start one with `tokenworks up`")
        if isinstance(error, ConnectionError | http.client.HTTPException):
            return UnavailableError(f"the connection to {self.url} broke before the answer was complete")
        return UnavailableError(f"cannot reach {self.url}: {error}")


def make_target(call: Call[Request, Response], request: Request | None) -> tuple[str, bytes | None]:
    """Return path with query, and body, of a call: placeholders are filled first, the rest goes where it belongs."""
    fields: dict[str, Any] = {} if request is None else msgspec.to_builtins(request)
    path = _PLACEHOLDER.sub(lambda found: quote(str(fields.pop(found[1])), safe=""), call.path)
    if call.method not in {"GET", "DELETE"}:
        return path, None if call.request is None else msgspec.json.encode(fields)
    query = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
    return (f"{path}?{query}" if query else path), None


def error_of(status: int, content: bytes, url: str) -> TokenworksError:
    """Return the error that an answer of this status and content means."""
    kind = _ERRORS.get(status, UnavailableError if status >= 500 else InvalidRequestError)
    try:
        said = msgspec.json.decode(content)["error"]
        return kind(str(said["message"]), code=said.get("code"), param=said.get("param"), status=status)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return kind(f"{url} answered with HTTP status {status} and no explanation; is it a tokenworks?", status=status)


def _raise_event_error(event: bytes) -> None:
    if not event.startswith(b'{"error"'):
        return
    try:
        said = msgspec.json.decode(event)["error"]
        message, code = str(said["message"]), said.get("code")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        message, code = event.decode(errors="replace"), None
    raise UpstreamError(message, code=code)


def _parse_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment:
        raise InvalidRequestError(f"{url!r} is not an address of a tokenworks; expected http://HOST:PORT")
    return parts
