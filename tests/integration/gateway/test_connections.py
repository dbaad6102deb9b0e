"""Clients that misuse a connection: what they get, what it costs the door, and that nobody else notices."""

import asyncio
import os
import time

import pytest

from tests.integration.gateway.harness import (
    DONE,
    Call,
    answer_events,
    caught_bugs,
    chat_request,
    chunk_event,
    finish_event,
    http_request,
    progress_event,
    role_event,
    scene,
    until,
    usage_event,
)
from tests.integration.gateway.upstream import controlled_scene
from tokenworks.gateway import protocol

CHAT = "/v1/chat/completions"
HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"


async def hang(call: Call) -> None:
    await call.gone()


# pipelining


async def test_many_pipelined_requests_are_answered_in_order_and_the_connection_lives() -> None:
    release = asyncio.Event()

    async def hold(call: Call) -> None:
        await release.wait()
        await call.answer(answer_events(1))

    async with scene() as made:
        made.replica.behaviour = hold
        client = await made.client()
        await client.send(chat_request() + HEALTH * 40 + chat_request())
        await until(lambda: made.replica.calls)
        (connection,) = made.door.connections
        assert connection._transport is not None
        await until(lambda: not connection._transport.is_reading())  # type: ignore[union-attr]  # asserted above
        release.set()
        replies = [await client.read_reply() for _ in range(42)]
        assert [reply.status for reply in replies] == [200] * 42
        assert all(reply.body == b'{"status":"ok"}' for reply in replies[1:-1])
        assert (await client.request("GET", "/healthz")).status == 200


async def test_a_flood_of_pipelined_requests_ends_the_connection_and_its_engine() -> None:
    gone = asyncio.Event()

    async def wait(call: Call) -> None:
        await call.gone()
        gone.set()

    async with scene() as made:
        made.replica.behaviour = wait
        client = await made.client()
        await client.send(chat_request())
        await until(lambda: made.replica.calls)
        await client.send(HEALTH * 1000)
        await asyncio.wait_for(gone.wait(), 2)
        assert not made.door.connections
        assert len(await made.settled()) == 1


async def test_a_client_that_pipelines_and_leaves_stops_the_engine() -> None:
    gone = asyncio.Event()

    async def wait(call: Call) -> None:
        await call.gone()
        gone.set()

    async with scene() as made:
        made.replica.behaviour = wait
        client = await made.client()
        await client.send(chat_request() + chat_request())
        await until(lambda: made.replica.calls)
        client.close()
        await asyncio.wait_for(gone.wait(), 2)
        await made.settled()
        assert len(made.journal.opened) == 1


async def test_pipelined_answers_for_a_client_that_does_not_read_are_bounded() -> None:
    async with scene(write_buffer_bytes=4096) as made:
        read: list[str] = []
        new_id = made.door.new_request_id

        def note() -> str:
            read.append(new_id())
            return read[-1]

        made.door.new_request_id = note  # type: ignore[method-assign]  # it counts what the door has read
        client = await made.slow_client()
        sent = 0
        (connection,) = made.door.connections
        while len(connection._queue) < 16:
            await client.send(HEALTH * 10)
            sent += 10
            await until(lambda: len(read) == sent)  # noqa: B023  # awaited before it changes
        assert made.is_stalled
        assert made.unsent_bytes < 20_000
        for _ in range(sent):
            assert (await client.read_reply()).status == 200


async def test_a_stream_for_a_client_that_has_not_read_its_last_answer_waits() -> None:
    async with scene(write_buffer_bytes=1024) as made:
        client = await made.slow_client()
        await client.send(HEALTH * 60)
        await until(lambda: made.is_stalled)
        await client.send(chat_request(stream=True, max_tokens=2))
        for _ in range(60):
            assert (await client.read_reply()).status == 200
        assert (await client.read_reply()).events[-1] == b"[DONE]"


async def test_a_slow_reader_pauses_its_replica_and_the_next_answer_is_read() -> None:
    events = [progress_event(7), role_event(), *(chunk_event(number, "y" * 2000) for number in range(1, 400))]
    events += [finish_event("length"), usage_event(399), DONE]

    async def large(call: Call) -> None:
        await call.answer(events if call.body["max_tokens"] == 60 else answer_events(2))

    async with scene(write_buffer_bytes=8192) as made:
        made.replica.behaviour = large
        client, other = await made.slow_client(), await made.client()
        await client.send(chat_request(stream=True, max_tokens=60))
        await until(lambda: made.is_stalled)
        await asyncio.sleep(0.01)
        assert made.unsent_bytes < 500_000
        assert (await client.read_reply()).events[-1] == b"[DONE]"
        assert (await asyncio.wait_for(other.chat(max_tokens=2), 2)).status == 200
        assert made.replica.connections == 1


async def test_an_answer_that_ends_while_it_is_not_read_leaves_a_connection_that_is_read() -> None:
    async def burst(call: Call) -> None:
        events = answer_events(2)
        if call.body["max_tokens"] == 60:
            chunks = [chunk_event(number, "y" * 2000) for number in range(1, 20)]
            events = [progress_event(7), role_event(), *chunks, finish_event("length"), usage_event(19), DONE]
        whole = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        call._writer.write(head + whole)

    async with scene(write_buffer_bytes=8192, first_token_ms_max=2000) as made:
        made.replica.behaviour = burst
        client, other = await made.slow_client(), await made.client()
        await client.send(chat_request(stream=True, max_tokens=60))
        await made.settled()
        assert made.is_stalled
        assert (await asyncio.wait_for(other.chat(max_tokens=2), 2)).status == 200
        assert made.replica.connections == 1
        assert (await client.read_reply()).events[-1] == b"[DONE]"


async def test_nothing_is_begun_after_close_was_said() -> None:
    async with controlled_scene() as (made, control):
        client = await made.client()
        assert (await client.request("GET", "/docs")).body == b"hello"
        made.door.is_draining = True
        await client.send(HEALTH + http_request("GET", "/docs", b"body"))
        assert (await client.read_reply()).headers["connection"] == "close"
        assert await client.reader.read() == b""
        await until(lambda: not made.door.connections)
        assert len(control.asked) == 1


async def test_nothing_is_begun_after_a_client_said_close() -> None:
    async with controlled_scene() as (made, control):
        client = await made.client()
        closing = HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        await client.send(closing + http_request("POST", "/admin/v1/keys"))
        assert (await client.read_reply()).headers["connection"] == "close"
        assert await client.reader.read() == b""
        assert control.asked == []


# times


@pytest.mark.parametrize("when", ["after a body", "later"])
async def test_a_stray_line_end_is_no_request(when: str) -> None:
    async with scene(head_wait_ms_max=30) as made:
        client = await made.client()
        stray = b"\r\n" if when == "after a body" else b""
        await client.send(chat_request(max_tokens=1) + stray)
        assert (await client.read_reply()).status == 200
        await client.send(b"\r\n")
        await asyncio.sleep(0.08)
        assert (await client.chat(max_tokens=1)).status == 200


async def test_a_half_sent_request_without_a_good_key_gets_its_own_error_in_time() -> None:
    async with scene(body_wait_ms_max=40) as made:
        client = await made.client()
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 50\r\n\r\n{")
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (401, "missing_api_key")
        assert await client.reader.read() == b""


async def test_a_broken_answer_that_is_not_read_is_dropped_in_time() -> None:
    async def dies(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), *(chunk_event(number, "y" * 4000) for number in range(1, 20)))
        await until(lambda: made.unsent_bytes > 20_000)
        call.die()

    async with scene(write_buffer_bytes=1_000_000, body_wait_ms_max=50) as made:
        made.replica.behaviour = dies
        client = await made.slow_client()
        await client.send(chat_request(stream=True))
        await made.settled()
        await until(lambda: not made.door.connections)


async def test_a_refused_client_may_send_on_for_a_while_and_reads_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LINGER_MS", 80)
    async with scene() as made:
        client = await made.client()
        await client.send(b"nonsense\r\n\r\n")
        reply = await client.read_reply()
        for _ in range(20):
            await client.send(b"z" * 10_000)
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")
        assert await client.reader.read() == b""
        assert made.door.connections
        started = time.monotonic()
        await until(lambda: not made.door.connections)
        assert time.monotonic() - started < 1


# limits


async def test_connections_over_the_limit_are_refused_and_cost_nothing() -> None:
    async with scene(connections_max=1) as made:
        first = await made.client()
        assert (await first.request("GET", "/healthz")).status == 200
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            other = await made.client()
            reply = await other.read_reply()
            assert (reply.status, reply.error["code"], reply.headers["connection"]) == (
                503,
                "too_many_connections",
                "close",
            )
            assert await other.reader.read() == b""
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 20)
        assert len(made.door.connections) == 1
        assert (await first.request("GET", "/healthz")).status == 200


async def test_a_refused_connection_that_stays_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LINGER_MS", 20)
    async with scene(connections_max=1) as made:
        await (await made.client()).request("GET", "/healthz")
        before = len(os.listdir("/proc/self/fd"))
        await made.client()
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == before + 1


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /healthz HTTP/1.1\r\nx: ",
        b"GET /",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;x=",
    ],
    ids=["header", "target", "trailer", "chunk extension"],
)
@pytest.mark.parametrize("is_answering", [False, True])
async def test_what_never_ends_is_not_kept(begun: bytes, is_answering: bool) -> None:
    async with scene(header_bytes_max=4096) as made:
        made.replica.behaviour = hang
        client = await made.client()
        if is_answering:
            await client.send(chat_request())
            await until(lambda: made.replica.calls)
        await client.send(begun)
        sent = 0
        (connection,) = made.door.connections
        while not connection._is_closing:
            await client.send(b"a" * 1000)
            sent += 1000
            assert sent < 200_000
            await asyncio.sleep(0.0005)
        if is_answering:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.read_reply()
        else:
            reply = await client.read_reply()
            assert (reply.status, reply.error["code"]) == (431, "headers_too_large")


async def test_a_large_body_behind_small_headers_is_no_large_header() -> None:
    async with scene(header_bytes_max=1024) as made:
        client = await made.client()
        filler = chat_request(max_tokens=1, user="u" * 8000)
        await client.send(filler)
        assert (await client.read_reply()).status == 200
        await client.send(HEALTH * 50)
        for _ in range(50):
            assert (await client.read_reply()).status == 200


async def test_a_trailer_is_no_header() -> None:
    async with scene() as made:
        client = await made.client()
        head = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        await client.send(head + b"2\r\n{}\r\n0\r\nauthorization: Bearer tw-good\r\n\r\n")
        assert (await client.read_reply()).error["code"] == "missing_api_key"
        assert (await client.request("GET", "/healthz")).status == 200


async def test_a_body_in_pieces_is_one_body() -> None:
    async with scene() as made:
        client = await made.client()
        whole = chat_request(max_tokens=1)
        for at in range(0, len(whole), 30):
            await client.send(whole[at : at + 30])
            await asyncio.sleep(0)
        assert (await client.read_reply()).status == 200


# Expect


async def test_expect_is_not_answered_inside_a_running_answer() -> None:
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), chunk_event(1))
        await go_on.wait()
        await call.send(chunk_event(2), finish_event("length"), usage_event(2), DONE)
        await call.end()

    async with scene() as made:
        made.replica.behaviour = slow
        client = await made.client()
        await client.send(chat_request(stream=True))
        await client.read_head()
        await client.read_chunk()
        waiting = http_request("POST", CHAT, b"", "expect: 100-continue\r\n").replace(b": 0", b": 2")
        await client.send(waiting)
        await asyncio.sleep(0.01)
        go_on.set()
        while await client.read_chunk():
            pass
        await client.send(b"{}")
        assert (await client.read_reply()).status == 400


@pytest.mark.parametrize("is_good", [True, False])
async def test_expect_is_refused_before_the_body_when_the_key_is_not_good(is_good: bool) -> None:
    async with scene() as made:
        client = await made.client()
        request = http_request("POST", CHAT, b"", "expect: 100-continue\r\n").replace(b": 0", b": 100")
        await client.send(request if is_good else request.replace(b"tw-good", b"tw-bad!"))
        if is_good:
            assert (await client.read_head())[0] == 100
        else:
            reply = await client.read_reply()
            assert (reply.status, reply.headers["connection"]) == (401, "close")


async def test_a_client_of_http_1_0_gets_no_interim_answer() -> None:
    async with scene() as made:
        client = await made.client()
        request = http_request("POST", CHAT, b"", "expect: 100-continue\r\n").replace(b": 0", b": 2")
        await client.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await asyncio.sleep(0.01)
        await client.send(b"{}")
        assert (await client.read_reply()).status == 400


# what is not HTTP/1.1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/0.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n\r\n",
    ],
    ids=["0.9", "2", "connect", "h2c"],
)
async def test_other_protocols_are_refused_and_never_relayed(data: bytes) -> None:
    async with controlled_scene() as (made, control):
        client = await made.client()
        await client.send(data)
        reply = await asyncio.wait_for(client.read_reply(), 2)
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")
        assert await client.reader.read() == b""
        assert control.asked == []


async def test_nonsense_behind_a_running_request_ends_both() -> None:
    gone = asyncio.Event()

    async def wait(call: Call) -> None:
        await call.gone()
        gone.set()

    async with scene() as made:
        made.replica.behaviour = wait
        client = await made.client()
        await client.send(chat_request())
        await until(lambda: made.replica.calls)
        await client.send(b"nonsense\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 2)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.read_reply()


# bugs


async def test_a_bug_while_a_request_is_read_drops_its_connection_alone() -> None:
    def bug() -> str:
        raise KeyError("a bug")

    bugs = caught_bugs()
    async with scene() as made:
        client, other = await made.client(), await made.client()
        assert (await other.request("GET", "/healthz")).status == 200
        made.door.new_request_id = bug  # type: ignore[method-assign]  # a bug for a while
        await client.send(HEALTH)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.read_reply()
        del made.door.new_request_id
        assert (await other.request("GET", "/healthz")).status == 200
        assert [type(each) for each in bugs] == [KeyError]
