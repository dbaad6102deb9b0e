"""What is control's goes there as it is, once, and comes back as it is; whatever control does, the client hears."""

import asyncio

import pytest

from tests.integration.gateway.harness import Scene, caught_bugs, http_request, scene, until
from tests.integration.gateway.upstream import Asked, HeldPool, controlled_scene, say_hello, say_nothing, upstream
from tokenworks.kit.http1 import Pool


async def test_an_answer_with_a_length_keeps_the_connections() -> None:
    async with controlled_scene() as (made, control):
        client = await made.client()
        for _ in range(3):
            reply = await client.request("GET", "/docs?a=b")
            assert (reply.status, reply.body) == (200, b"hello")
            assert "connection" not in reply.headers
        assert [asked.target for asked in control.asked] == ["/docs?a=b"] * 3
        assert control.connections == 1


async def test_an_answer_to_head_ends_without_a_body() -> None:
    async with controlled_scene() as (made, _):
        client = await made.client()
        await client.send(b"HEAD /docs HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(2):
            status, headers = await client.read_head()
            assert (status, headers["content-length"]) == (200, "5")
            assert (await client.read_reply()).body == b'{"status":"ok"}'


async def test_an_answer_without_content_keeps_the_connection() -> None:
    async def no_content(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with controlled_scene() as (made, control):
        control.answering = no_content
        client = await made.client()
        for _ in range(2):
            await client.send(http_request("DELETE", "/admin/v1/keys/key_1"))
            status, headers = await client.read_head()
            assert status == 204
            assert not {"transfer-encoding", "connection"} & headers.keys()


async def test_chunks_arrive_as_they_are_sent() -> None:
    go_on = asyncio.Event()

    async def chunked(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        await asked.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with controlled_scene() as (made, control):
        control.answering = chunked
        client = await made.client()
        for _ in range(2):
            go_on.clear()
            await client.send(http_request("GET", "/console"))
            assert (await client.read_head())[1]["transfer-encoding"] == "chunked"
            assert await client.read_chunk() == b"one"
            go_on.set()
            assert await client.read_chunk() == b"two"
            assert await client.read_chunk() == b""


async def test_a_client_of_http_1_0_gets_chunks_as_plain_bytes_and_the_end() -> None:
    async def chunked(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    async with controlled_scene() as (made, control):
        control.answering = chunked
        client = await made.client()
        await client.send(b"GET /console HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        reply = await client.read_reply()
        assert (reply.headers["connection"], reply.body) == ("close", b"onetwo")
        assert "transfer-encoding" not in reply.headers


async def test_headers_of_one_hop_and_a_clients_own_id_are_not_passed_on() -> None:
    async def answer(asked: Asked) -> None:
        await asked.reply(b"x", headers=b"keep-alive: timeout=5\r\nx-request-id: theirs\r\netag: e\r\n")

    async with controlled_scene() as (made, control):
        control.answering = answer
        sent = "TE: trailers\r\nKeep-Alive: 1\r\nX-Request-Id: mine\r\nx-kept: yes\r\n"
        reply = await (await made.client()).request("POST", "/admin/v1/keys", b"body", sent)
        head = control.asked[0].head.decode().lower()
        assert "x-kept: yes" in head
        assert "authorization: bearer" in head
        assert not any(name in head for name in ("te:", "keep-alive:", "mine"))
        assert f"x-request-id: {reply.headers['x-request-id']}" in head
        assert control.asked[0].body == b"body"
        assert (reply.headers["etag"], "keep-alive" in reply.headers) == ("e", False)
        assert "theirs" not in reply.headers.values()


async def test_a_post_is_never_sent_twice() -> None:
    async def die_at_posts(asked: Asked) -> None:
        if asked.method == "POST":
            asked.die()
        else:
            await asked.reply(b"hello")

    async with controlled_scene() as (made, control):
        control.answering = die_at_posts
        client = await made.client()
        assert (await client.request("GET", "/docs")).status == 200
        reply = await client.request("POST", "/admin/v1/keys", b"{}")
        assert (reply.status, reply.error["code"]) == (503, "control_unavailable")
        assert [asked.method for asked in control.asked] == ["GET", "POST"]


async def test_a_get_on_a_stale_connection_is_sent_again() -> None:
    async def die_on_used(asked: Asked) -> None:
        if len(control.asked) == 2:
            asked.die()
        else:
            await asked.reply(b"hello")

    async with controlled_scene() as (made, control):
        control.answering = die_on_used
        client = await made.client()
        assert (await client.request("GET", "/docs")).body == b"hello"
        assert (await client.request("GET", "/docs")).body == b"hello"
        assert len(control.asked) == 3


async def test_a_get_on_a_new_connection_that_dies_is_not_sent_again() -> None:
    async def die(asked: Asked) -> None:
        asked.die()

    async with controlled_scene() as (made, control):
        control.answering = die
        reply = await (await made.client()).request("GET", "/docs")
        assert (reply.status, reply.error["code"]) == (503, "control_unavailable")
        assert len(control.asked) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/region",
        "/region/v1/snapshot",
        "/region/v1/snapshot?wait_ms=1",
        "/regional",
        "//region/v1/snapshot",
        "///region",
        "/%72egion/v1/snapshot",
        "/%72%65%67%69%6f%6e/v1/snapshot",
        "/%2Fregion/v1/snapshot",
        "/region%2fv1%2fsnapshot",
        "http://x/region/v1/snapshot",
        "region/v1/snapshot",
        "*",
    ],
)
async def test_no_spelling_of_region_is_relayed(path: str) -> None:
    async with controlled_scene() as (made, control):
        client = await made.client()
        await client.send(http_request("OPTIONS" if path == "*" else "GET", path))
        reply = await client.read_reply()
        assert reply.status in (400, 404)
        assert control.asked == []


async def test_relays_are_bounded() -> None:
    async with controlled_scene(relays_max=2) as (made, control):
        control.answering = say_nothing
        for _ in range(2):
            await (await made.client()).send(http_request("GET", "/docs"))
        await until(lambda: len(control.asked) == 2)
        reply = await (await made.client()).request("GET", "/docs")
        assert (reply.status, reply.error["code"]) == (503, "no_capacity")
        made.clients[0].close()
        await until(lambda: len(made.door.relays) == 1)
        await (await made.client()).send(http_request("GET", "/docs"))
        await until(lambda: len(control.asked) == 3)


async def test_control_away_is_said_and_it_may_come_back() -> None:
    async with scene() as made:
        client = await made.client()
        reply = await client.request("GET", "/docs")
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "control_unavailable", "1")
        async with upstream(is_unix=False) as control:
            made.door.control = Pool(control.address, 1000)
            assert (await client.request("GET", "/docs")).body == b"hello"


async def test_a_silent_control_is_a_503_in_time() -> None:
    async with controlled_scene(stall_ms_max=40) as (made, control):
        control.answering = say_nothing
        reply = await (await made.client()).request("POST", "/admin/v1/keys")
        assert (reply.status, reply.error["code"]) == (503, "control_unavailable")
        assert "said nothing" in str(reply.error["message"])


async def _broken(made: Scene) -> bytes:
    client = await made.client()
    await client.send(http_request("GET", "/docs"))
    assert (await client.read_head())[0] == 200
    return await asyncio.wait_for(client.reader.read(), 2)


async def test_a_control_that_falls_silent_breaks_the_answer_visibly() -> None:
    async def half(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await asked.gone()

    async with controlled_scene(stall_ms_max=40) as (made, control):
        control.answering = half
        assert await _broken(made) == b"half"


async def test_a_control_that_dies_in_the_answer_breaks_it_visibly() -> None:
    async def half(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        asked.close()

    async with controlled_scene() as (made, control):
        control.answering = half
        assert await _broken(made) == b"4\r\nhalf\r\n"


async def test_nonsense_from_control_is_a_503() -> None:
    async def nonsense(asked: Asked) -> None:
        await asked.send(b"what?\r\n\r\n")

    async with controlled_scene() as (made, control):
        control.answering = nonsense
        reply = await (await made.client()).request("GET", "/docs")
        assert (reply.status, reply.error["code"]) == (503, "control_unavailable")


async def test_a_client_that_leaves_ends_its_call_of_control() -> None:
    gone = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await asked.gone()
        gone.set()

    async with controlled_scene() as (made, control):
        control.answering = wait
        client = await made.client()
        await client.send(http_request("GET", "/docs"))
        await until(lambda: bool(control.asked))
        client.close()
        await asyncio.wait_for(gone.wait(), 2)
        await until(lambda: not made.door.relays)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_client_that_leaves_while_control_is_being_reached_asks_nothing(is_there: bool) -> None:
    async with controlled_scene() as (made, control):
        made.door.control = pool = HeldPool(control.address)
        client = await made.client()
        await client.send(http_request("GET", "/docs"))
        await until(lambda: pool.held)
        client.close()
        await until(lambda: not made.door.relays)
        connection = await pool.open()
        pool.held[0](connection if is_there else OSError("nobody listens"))
        assert connection.is_usable is not is_there
        assert control.asked == []
        connection.abort()


async def test_a_slow_reader_pauses_control_and_loses_nothing() -> None:
    body = b"z" * 4_000_000
    written = asyncio.Event()

    async def big(asked: Asked) -> None:
        await asked.reply(body)
        written.set()

    async with controlled_scene(write_buffer_bytes=1024, stall_ms_max=5000) as (made, control):
        control.answering = big
        client = await made.slow_client()
        await client.send(http_request("GET", "/big"))
        await until(lambda: made.is_stalled)
        await asyncio.sleep(0.02)
        assert not written.is_set()
        assert made.unsent_bytes < 1_000_000
        reply = await client.read_reply()
        assert reply.body == body


async def test_a_bug_in_a_relay_is_a_500_and_the_door_goes_on() -> None:
    def bug(now: float) -> None:
        raise KeyError("a bug")

    bugs = caught_bugs()
    async with controlled_scene() as (made, control):
        control.answering = say_nothing
        client = await made.client()
        await client.send(http_request("GET", "/docs"))
        await until(lambda: made.door.relays)
        (relay,) = made.door.relays
        made.door._guard(relay, bug, 0.0)
        assert (await client.read_reply()).status == 500
        assert [type(each) for each in bugs] == [KeyError]
        control.answering = say_hello
        assert (await client.request("GET", "/docs")).status == 200
