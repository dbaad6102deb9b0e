"""An engine that talks nonsense, however bad: its answer fails, clearly and alone, streamed or not."""

import asyncio

import pytest

from tests.integration.gateway.harness import (
    DONE,
    Call,
    RawClient,
    answer_events,
    caught_bugs,
    chat_request,
    chunk_event,
    finish_event,
    progress_event,
    role_event,
    scene,
    until,
    usage_event,
)
from tokenworks.metering.model import Counts, Status


@pytest.mark.parametrize(
    ("status", "body", "answered", "code"),
    [
        (400, b'{"error":{"message":"\xff","type":"x"}}', 502, "upstream_error"),
        (400, b"what?", 502, "upstream_error"),
        (400, b'{"error":{"message":"bad"}}', 400, "invalid_request"),
        (401, b'{"error":{"message":"who?"}}', 502, "upstream_error"),
        (503, b'{"error":{}}', 502, "upstream_error"),
        (500, b"x" * 200_000, 502, "upstream_error"),
    ],
    ids=["invalid utf-8", "no json", "bad request", "key", "empty", "long"],
)
async def test_a_refusal_of_the_replica_is_a_clear_error(status: int, body: bytes, answered: int, code: str) -> None:
    async def refuse(call: Call) -> None:
        await call.refuse(status, body)

    async with scene() as made:
        made.replica.behaviour = refuse
        reply = await (await made.client()).chat()
        assert (reply.status, reply.error["code"]) == (answered, code)
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.FAILED, Counts())


BAD_TEXT = chunk_event(1).replace(b'"x"', b'"\xff"')
BAD_ENDS = {
    "invalid utf-8 in a count": [
        progress_event(7),
        role_event(),
        chunk_event(1),
        usage_event(1).replace(b"b0", b"\xff"),
    ],
    "giant count": [progress_event(7), role_event(), chunk_event(1), finish_event(), usage_event(10**25), DONE],
    "negative count": [progress_event(7), role_event(), chunk_event(1), finish_event(), usage_event(-1), DONE],
    "no event": [progress_event(7), b"what?\n\n", DONE],
    "error": [progress_event(7), role_event(), chunk_event(1), b'error: {"error":{"code":500,"message":"boom"}}\n\n'],
    "cut timings": [progress_event(7), b'data: {"choices":[{"index":0,"delta":{}}],"timings":{"cache_n":1\n\n', DONE],
}


@pytest.mark.parametrize("events", BAD_ENDS.values(), ids=BAD_ENDS.keys())
@pytest.mark.parametrize("is_stream", [False, True])
async def test_nonsense_in_an_answer_is_its_failure_alone(events: list[bytes], is_stream: bool) -> None:
    async def nonsense(call: Call) -> None:
        if len(made.replica.calls) == 1:
            await call.answer(events)
        else:
            await call.answer(answer_events(1))

    bugs = caught_bugs()
    async with scene() as made:
        made.replica.behaviour = nonsense
        client = await made.client()
        await client.send(chat_request(stream=is_stream))
        if is_stream:
            rest = await asyncio.wait_for(client.reader.read(), 2) if await _is_broken(client) else b""
            assert b"[DONE]" not in rest
        else:
            assert (await asyncio.wait_for(client.read_reply(), 2)).error["code"] == "upstream_error"
        (row,) = await made.settled()
        assert row.status is Status.FAILED
        assert row.counts.output_tokens <= 1
        assert (await (await made.client()).chat(max_tokens=1)).status == 200
    assert bugs == []


async def _is_broken(client: RawClient) -> bool:
    """Read a head; True if an answer was begun, which must break."""
    status, headers = await client.read_head()
    if status != 200:
        assert status == 502
        await client.reader.readexactly(int(headers["content-length"]))
    return status == 200


async def test_a_giant_count_inside_a_stream_breaks_it() -> None:
    async def nonsense(call: Call) -> None:
        await call.answer([progress_event(7), role_event(), chunk_event(1), chunk_event(10**25), finish_event(), DONE])

    async with scene() as made:
        made.replica.behaviour = nonsense
        client = await made.client()
        await client.send(chat_request(stream=True))
        assert not await _is_broken(client) or b"[DONE]" not in await client.reader.read()
        (row,) = await made.settled()
        assert (row.status, row.counts.output_tokens) == (Status.FAILED, 1)


async def test_text_that_is_not_utf_8_fails_an_answer_that_is_assembled() -> None:
    async def nonsense(call: Call) -> None:
        await call.answer([progress_event(7), role_event(), BAD_TEXT, finish_event(), usage_event(1), DONE])

    async with scene() as made:
        made.replica.behaviour = nonsense
        assert (await (await made.client()).chat()).error["code"] == "upstream_error"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"finish_reason":null,"index":0}],"timings":{"cache_n":1\n\n',
        usage_event(1)[:-5] + b"\xff}\n\n",
    ],
    ids=["cut timings", "usage not utf-8"],
)
async def test_the_tick_survives_nonsense(event: bytes, is_stream: bool) -> None:
    async def nonsense(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), event)
        await call.gone()

    bugs = caught_bugs()
    async with scene() as made:
        made.replica.behaviour = nonsense
        client = await made.client()
        await client.send(chat_request(stream=is_stream))
        await until(lambda: made.replica.calls)
        await asyncio.sleep(0.06)
        client.close()
        await made.settled()
    assert bugs == []


async def test_an_answer_over_the_limit_is_an_error_that_says_to_stream_it() -> None:
    async def long(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), chunk_event(1, "y" * 3000))
        await call.gone()

    async with scene(answer_bytes_max=2000) as made:
        made.replica.behaviour = long
        reply = await (await made.client()).chat()
        assert reply.status == 502
        assert "stream it" in str(reply.error["message"])


async def test_a_stream_that_ends_before_its_end_breaks() -> None:
    async def short(call: Call) -> None:
        await call.answer([progress_event(7), role_event(), chunk_event(1)])

    async with scene() as made:
        made.replica.behaviour = short
        client = await made.client()
        await client.send(chat_request(stream=True))
        if await _is_broken(client):
            rest = await client.reader.read()
            assert b"upstream_error" in rest
            assert b"[DONE]" not in rest
        (row,) = await made.settled()
        assert row.status is Status.FAILED
