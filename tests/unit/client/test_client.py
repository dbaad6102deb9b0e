"""How a call becomes a request, and how an answer, good or bad, becomes a value or an error."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from tokenworks.client.call import Call
from tokenworks.client.client import Client, error_of, make_target
from tokenworks.client.stream import read_events
from tokenworks.kit.errors import (
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    TokenworksError,
    UnavailableError,
    UpstreamError,
)


class Wanted(msgspec.Struct):
    """A request with a placeholder, an optional field and a list."""

    thing_id: str
    limit: int | None = None
    tags: tuple[str, ...] = ()


class Thing(msgspec.Struct):
    """An answer."""

    name: str


SHOW = Call("GET", "/things/{thing_id}", Wanted, Thing)
MAKE = Call("POST", "/things/{thing_id}/parts", Wanted, Thing)
PLAIN: Call[None, Thing] = Call("GET", "/thing", None, Thing)


def test_placeholders_are_filled_and_escaped() -> None:
    assert make_target(SHOW, Wanted("a/b c?")) == ("/things/a%2Fb%20c%3F", None)


def test_the_rest_of_a_get_is_its_query() -> None:
    assert make_target(SHOW, Wanted("a", 5, ("x", "y"))) == ("/things/a?limit=5&tags=x&tags=y", None)


def test_the_rest_of_a_post_is_its_body() -> None:
    target, body = make_target(MAKE, Wanted("a", 5))
    assert target == "/things/a/parts"
    assert msgspec.json.decode(body or b"") == {"limit": 5, "tags": []}


def test_a_call_without_a_request_has_neither() -> None:
    assert make_target(PLAIN, None) == ("/thing", None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (404, NotFoundError), (418, InvalidRequestError), (500, UnavailableError)],
)
def test_an_error_keeps_sentence_code_and_field(status: int, kind: type[TokenworksError]) -> None:
    content = b'{"error": {"message": "no such key", "type": "t", "param": "key_id", "code": "gone"}}'
    error = error_of(status, content, "http://x")
    assert type(error) is kind
    assert (error.message, error.code, error.param, error.http_status) == ("no such key", "gone", "key_id", status)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {}}', b'{"error": null}'])
def test_an_error_in_another_shape_is_still_a_sentence(content: bytes) -> None:
    assert "HTTP status 502 and no explanation" in error_of(502, content, "http://x").message


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "http://x:99999", "http://x?y=1"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="not an address"):
        Client(url)


def test_events_are_payloads_up_to_done() -> None:
    lines = io.BytesIO(
        b': hello\r\n\r\ndata: {"a": 1}\r\n\r\ndata:x\ndata: y\n\nevent: e\n\ndata: [DONE]\n\ndata: late\n\n'
    )
    assert list(read_events(lines)) == [b'{"a": 1}', b"x\ny"]


@pytest.mark.parametrize("content", [b"", b"data: a\n\n", b"data: a\n\ndata: [DO"])
def test_a_stream_without_its_end_was_cut(content: bytes) -> None:
    with pytest.raises(UpstreamError, match="cut before its end"):
        list(read_events(io.BytesIO(content)))


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives one connection this answer, and keeps what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def http(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_an_answer_is_decoded_and_the_key_is_sent() -> None:
    with answering(http("200 OK", b'{"name": "n", "new_field": 1}')) as (url, asked):
        assert Client(url, "tw-secret").call(PLAIN) == Thing("n")
    assert b"GET /thing HTTP/1.1" in asked[0]
    assert b"Authorization: Bearer tw-secret" in asked[0]


def test_an_address_may_have_a_path() -> None:
    with answering(http("200 OK", b'{"name": "n"}')) as (url, asked):
        Client(url + "/below/").call(PLAIN)
    assert b"GET /below/thing HTTP/1.1" in asked[0]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http("404 Not Found", b'{"error": {"message": "no thing of this name"}}'), "no thing of this name"),
        (http("200 OK", b'{"other": 1}'), "cannot read"),
        (http("200 OK", b"{"), "cannot read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "broke before the answer"),
        (b"", "broke before the answer"),
        (b"SSH-2.0-x\r\n\r\n", "broke before the answer"),
    ],
)
def test_every_bad_answer_is_one_sentence(answer: bytes, sentence: str) -> None:
    with answering(answer) as (url, _), pytest.raises(TokenworksError, match=sentence):
        Client(url).call(PLAIN)


def test_nobody_there_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnavailableError, match="start one with `tokenworks up`"):
        Client(f"http://127.0.0.1:{port}").call(PLAIN)


def test_a_key_that_is_no_header_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "tw-a\nb")
        with pytest.raises(InvalidRequestError, match="cannot ask"):
            client.call(PLAIN)


def test_a_server_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.01)
        with pytest.raises(UnavailableError, match="did not answer within"):
            client.call(PLAIN)


def test_a_stream_yields_events() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n") as (url, _):
        assert list(Client(url).stream("/x", {})) == [b"1", b"2"]


def test_an_error_in_a_stream_is_raised() -> None:
    events = b'data: 1\n\ndata: {"error": {"message": "the replica died", "code": "upstream_error"}}\n\n'
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + events) as (url, _):
        stream = Client(url).stream("/x", {})
        assert next(stream) == b"1"
        with pytest.raises(UpstreamError, match="the replica died"):
            next(stream)


def test_leaving_a_stream_closes_its_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = Client(f"http://127.0.0.1:{listener.getsockname()[1]}").stream("/x", {})
        left = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")
                while connection.recv(65536):
                    pass
                left.set()

        thread = threading.Thread(target=serve)
        thread.start()
        assert next(stream) == b"1"
        stream.close()
        thread.join(5)
        assert left.is_set()
