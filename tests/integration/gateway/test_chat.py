"""The life of a chat request at the door: what the client gets, what the engine is asked, what is on record."""

import asyncio
import json

import pytest

from tests.integration.gateway.harness import (
    DONE,
    MODEL,
    Call,
    answer_events,
    chat_request,
    chunk_event,
    finish_event,
    progress_event,
    role_event,
    scene,
    usage_event,
)
from tokenworks.kit.errors import StorageFullError
from tokenworks.metering.model import Counts, Status


async def test_plain_answer_is_assembled_and_on_record() -> None:
    async with scene() as made:
        reply = await (await made.client()).chat(max_tokens=3)
        assert reply.status == 200
        choices = reply.json["choices"]
        assert isinstance(choices, list)
        assert choices[0]["message"]["content"] == "t1 t2 t3 "
        assert choices[0]["finish_reason"] == "length"
        assert reply.json["usage"] == {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        (row,) = await made.settled()
        assert (row.status, row.counts, row.organization) == (Status.COMPLETED, Counts(7, 2, 3), "acme")
        assert row.request_id == reply.headers["x-request-id"]
        assert made.replica.calls[0].body["stream"] is True


async def test_stream_without_usage_asked_shows_no_counts() -> None:
    async with scene() as made:
        reply = await (await made.client()).chat(max_tokens=3, stream=True)
        chunks = [json.loads(event) for event in reply.events[:-1]]
        assert reply.events[-1] == b"[DONE]"
        assert all(chunk["choices"] for chunk in chunks)
        assert not any("usage" in chunk or "timings" in chunk or "prompt_progress" in chunk for chunk in chunks)
        assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [None, "t1 ", "t2 ", "t3 ", None]
        (row,) = await made.settled()
        assert row.counts == Counts(7, 2, 3)


async def test_stream_with_usage_asked_ends_with_exactly_one_usage() -> None:
    async with scene() as made:
        reply = await (await made.client()).chat(max_tokens=3, stream=True, stream_options={"include_usage": True})
        chunks = [json.loads(event) for event in reply.events[:-1]]
        assert [chunk["choices"] == [] for chunk in chunks] == [False] * 5 + [True]
        assert chunks[-1]["usage"]["completion_tokens"] == 3
        assert chunks[-1]["id"] == chunks[0]["id"]


async def test_several_choices_are_summed_and_get_one_usage() -> None:
    async def three(call: Call) -> None:
        events = [progress_event(7), *(role_event(index) for index in range(3))]
        events += [chunk_event(token, index=index) for token in (1, 2) for index in range(3)]
        events += [chunk_event(3, index=1)]
        for index, tokens in ((0, 2), (2, 2), (1, 3)):
            events += [finish_event("stop", index), usage_event(tokens)]
        await call.answer([*events, DONE])

    async with scene() as made:
        made.replica.behaviour = three
        client = await made.client()
        reply = await client.chat(n=3, stream=True, stream_options={"include_usage": True})
        usages = [json.loads(event)["usage"] for event in reply.events if b'"usage"' in event]
        assert [usage["completion_tokens"] for usage in usages] == [7]
        assert usages[0]["prompt_tokens"] == 7
        plain = await client.chat(n=3)
        choices = plain.json["choices"]
        assert isinstance(choices, list)
        assert [choice["message"]["content"] for choice in choices] == ["xx", "xxx", "xx"]
        rows = await made.settled(2)
        assert [row.counts for row in rows] == [Counts(7, 2, 7)] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_waits_for_the_record(stream: bool) -> None:
    async with scene() as made:
        client = await made.client()
        made.journal.is_held = True
        await client.send(chat_request(max_tokens=2, stream=stream))
        async with asyncio.timeout(5):
            while not made.journal.closed:
                await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)  # not even the first byte: opened is not durable
        made.journal.flush(upto=1)
        if stream:
            await client.read_head()
            seen = await client.read_chunk()
            assert b"t2" in seen
            assert b'finish_reason":"' not in seen
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
        made.journal.flush()
        if stream:
            end = await client.read_chunk()
            assert b'"finish_reason":"length"' in end
            assert end.endswith(DONE)
            assert await client.read_chunk() == b""
        else:
            assert (await client.read_reply()).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine_and_pays_what_was_made(stream: bool) -> None:
    gone = asyncio.Event()

    async def endless(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), *(chunk_event(number) for number in range(1, 4)))
        await call.gone()
        gone.set()

    async with scene() as made:
        made.replica.behaviour = endless
        client = await made.client()
        await client.send(chat_request(stream=stream))
        async with asyncio.timeout(5):
            while not made.journal.progress or made.journal.progress[-1].counts.output_tokens < 3:
                await asyncio.sleep(0.001)
        client.close()
        await asyncio.wait_for(gone.wait(), 5)
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.CANCELLED, Counts(7, 2, 3))


async def test_a_client_that_leaves_in_the_prefill_pays_what_was_processed() -> None:
    async def prefill(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(2), progress_event(5))
        await call.gone()

    async with scene() as made:
        made.replica.behaviour = prefill
        client = await made.client()
        await client.send(chat_request())
        async with asyncio.timeout(5):
            while not made.journal.progress:
                await asyncio.sleep(0.001)
        client.close()
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.CANCELLED, Counts(5, 2, 0))


async def test_a_client_that_leaves_the_queue_costs_nothing() -> None:
    release = asyncio.Event()

    async def hold(call: Call) -> None:
        await release.wait()
        await call.answer(answer_events(1))

    async with scene(slots=1) as made:
        made.replica.behaviour = hold
        first, second, third = [await made.client() for _ in range(3)]
        await first.send(chat_request())
        await asyncio.sleep(0.01)
        await second.send(chat_request())
        await third.send(chat_request())
        async with asyncio.timeout(5):
            while made.door.admission(MODEL).waiting < 2:
                await asyncio.sleep(0.001)
        second.close()
        while made.door.admission(MODEL).waiting > 1:
            await asyncio.sleep(0.001)
        release.set()
        assert (await first.read_reply()).status == 200
        assert (await third.read_reply()).status == 200
        assert len(await made.settled(2)) == 2
        assert len(made.journal.opened) == 2


async def test_the_queue_is_bounded_in_length_and_time() -> None:
    async def hang(call: Call) -> None:
        await call.gone()

    async with scene(slots=1, queue_requests_max=1, queue_wait_ms_max=60) as made:
        made.replica.behaviour = hang
        running, waiting, refused = [await made.client() for _ in range(3)]
        await running.send(chat_request())
        await asyncio.sleep(0.01)
        await waiting.send(chat_request())
        await asyncio.sleep(0.01)
        full = await refused.chat()
        assert (full.status, full.error["code"]) == (503, "no_capacity")
        assert full.headers["retry-after"] == "1"
        late = await waiting.read_reply()
        assert (late.status, late.error["code"]) == (503, "no_capacity")


async def test_more_choices_than_slots_is_refused() -> None:
    async with scene(slots=2) as made:
        reply = await (await made.client()).chat(n=3)
        assert (reply.status, reply.error["param"]) == (400, "n")
        assert made.journal.records == []


async def test_a_replica_that_dies_in_the_answer_fails_it_visibly() -> None:
    async def dies(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), chunk_event(1), chunk_event(2))
        await asyncio.sleep(0.02)
        call.die()

    async with scene() as made:
        made.replica.behaviour = dies
        client = await made.client()
        await client.send(chat_request(stream=True))
        await client.read_head()
        rest = await client.reader.read()
        assert b'"code":"upstream_error"' in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        plain = await (await made.client()).chat()
        assert (plain.status, plain.error["code"]) == (502, "upstream_error")
        rows = await made.settled(2)
        assert [(row.status, row.counts) for row in rows] == [(Status.FAILED, Counts(7, 2, 2))] * 2


async def test_a_replica_that_dies_before_it_said_anything_is_asked_again() -> None:
    async def dies_once(call: Call) -> None:
        if len(made.replica.calls) == 1:
            call.die()
        else:
            await call.answer(answer_events(2))

    async with scene() as made:
        made.replica.behaviour = dies_once
        reply = await (await made.client()).chat(max_tokens=2)
        assert reply.status == 200
        assert len(made.journal.opened) == 1
        (row,) = await made.settled()
        assert row.counts == Counts(7, 2, 2)


async def test_a_replica_that_always_dies_is_given_up() -> None:
    async def dies(call: Call) -> None:
        call.die()

    async with scene() as made:
        made.replica.behaviour = dies
        reply = await (await made.client()).chat()
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        assert len(made.replica.calls) == 3
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.FAILED, Counts())


async def test_requests_wait_while_the_replica_is_away() -> None:
    async with scene() as made:
        await made.replica.stop()
        client = await made.client()
        await client.send(chat_request(max_tokens=2))
        await asyncio.sleep(0.05)
        made.publish(replicas=(), etag="none")
        await asyncio.sleep(0.05)
        await made.replica.start()
        made.publish(etag="back")
        assert (await client.read_reply()).status == 200
        assert len(await made.settled()) == 1


async def test_a_stale_connection_is_not_an_error() -> None:
    async def answer_then_close(call: Call) -> None:
        await call.answer(answer_events(1))
        call._writer.close()

    async with scene() as made:
        client = await made.client()
        assert (await client.chat()).status == 200
        made.replica.behaviour = answer_then_close
        assert (await client.chat()).status == 200
        assert (await client.chat()).status == 200
        assert len(await made.settled(3)) == 3


async def test_connections_to_the_replica_are_used_again() -> None:
    async with scene() as made:
        client = await made.client()
        for _ in range(5):
            assert (await client.chat(max_tokens=1)).status == 200
        assert made.replica.connections == 1


async def test_a_silent_replica_times_out() -> None:
    async def hang(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), chunk_event(1))
        await call.gone()

    async with scene(stall_ms_max=50) as made:
        made.replica.behaviour = hang
        reply = await (await made.client()).chat()
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
        (row,) = await made.settled()
        assert (row.status, row.counts, row.reason) == (Status.FAILED, Counts(7, 2, 1), "upstream_timeout")


async def test_what_the_engine_refuses_is_the_clients_error_and_free() -> None:
    async def too_long(call: Call) -> None:
        await call.refuse(
            400, b'{"error":{"code":400,"message":"request (3031 tokens)","type":"exceed_context_size_error"}}'
        )

    async with scene() as made:
        made.replica.behaviour = too_long
        reply = await (await made.client()).chat(stream=True)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        (row,) = await made.settled()
        assert (row.status, row.counts, row.reason) == (Status.FAILED, Counts(), "context_length_exceeded")


@pytest.mark.parametrize(
    "events",
    [
        [progress_event(7), b"data: {not json\n\n", b'data: {"usage":{}}\n\n', DONE],
        [b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\n'],
        [progress_event(7), role_event(), chunk_event(1)],
        [DONE],
        [progress_event(7), role_event(), chunk_event(1), DONE],
        [progress_event(7), role_event(), b"data: {}\n\n", finish_event(), usage_event(1), DONE],
    ],
    ids=["garbage", "error", "no end", "only done", "no finish", "no chunk"],
)
async def test_nonsense_from_the_replica_is_a_clear_failure(events: list[bytes]) -> None:
    async def nonsense(call: Call) -> None:
        await call.answer(events)

    async with scene() as made:
        made.replica.behaviour = nonsense
        reply = await (await made.client()).chat()
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        (row,) = await made.settled()
        assert row.status is Status.FAILED


async def test_a_full_disk_refuses_new_work_before_the_engine_is_asked() -> None:
    async with scene() as made:
        made.journal.is_full = True
        client = await made.client()
        reply = await client.chat()
        assert (reply.status, reply.error["code"]) == (503, "storage_full")
        assert made.replica.calls == []
        made.journal.is_full = False
        assert (await client.chat()).status == 200


async def test_a_record_that_cannot_be_written_releases_no_answer() -> None:
    async with scene() as made:
        client = await made.client()
        made.journal.failure = StorageFullError("the disk failed")
        await client.send(chat_request(stream=True))
        assert b"[DONE]" not in await client.reader.read()


async def test_a_slow_reader_pauses_its_replica_and_loses_nothing() -> None:
    tokens = 4000

    async def fast(call: Call) -> None:
        await call.answer(answer_events(tokens))

    async with scene(write_buffer_bytes=1024) as made:
        made.replica.behaviour = fast
        client = await made.client()
        await client.send(chat_request(stream=True))
        await client.read_head()
        await asyncio.sleep(0.05)
        body = b""
        while piece := await client.read_chunk():
            body += piece
        assert body.count(b'"content":"t') == tokens
        (row,) = await made.settled()
        assert row.counts.output_tokens == tokens


async def test_a_client_that_never_reads_is_dropped_in_time() -> None:
    async def endless(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event())
        number = 0
        while True:
            number += 1
            await call.send(chunk_event(number, "y" * 4000))

    async with scene(write_buffer_bytes=1024, write_stall_ms_max=80) as made:
        made.replica.behaviour = endless
        client = await made.client()
        client.writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
        await client.send(chat_request(stream=True))
        (row,) = await made.settled()
        assert row.status is Status.CANCELLED


async def test_sixty_four_streams_a_third_of_which_leave() -> None:
    async def paced(call: Call) -> None:
        await call.begin()
        for event in answer_events(8):
            await call.send(event)
            await asyncio.sleep(0.001)
        await call.end()

    async def one(number: int) -> str:
        client = await made.client()
        await client.send(chat_request(stream=True, max_tokens=8))
        if number % 3 == 0:
            await client.read_head()
            while b"t1" not in await client.read_chunk():
                pass
            client.close()
            return "left"
        reply = await client.read_reply()
        assert reply.events[-1] == b"[DONE]"
        return reply.headers["x-request-id"]

    async with scene(slots=16) as made:
        made.replica.behaviour = paced
        outcomes = await asyncio.gather(*(one(number) for number in range(64)))
        rows = await made.settled(64)
        completed = {row.request_id for row in rows if row.status is Status.COMPLETED and row.counts == Counts(7, 2, 8)}
        assert {outcome for outcome in outcomes if outcome != "left"} <= completed
        assert len({row.request_id for row in rows}) == 64
        left = [row for row in rows if row.status is Status.CANCELLED]
        assert all(1 <= row.counts.output_tokens <= 8 for row in left)
        assert len(left) + len(completed) == 64


async def test_draining_finishes_answers_and_takes_no_more() -> None:
    release = asyncio.Event()

    async def hold(call: Call) -> None:
        await release.wait()
        await call.answer(answer_events(1))

    async with scene() as made:
        made.replica.behaviour = hold
        busy, idle = await made.client(), await made.client()
        assert (await idle.request("GET", "/healthz")).status == 200
        await busy.send(chat_request())
        async with asyncio.timeout(5):
            while not made.replica.calls:
                await asyncio.sleep(0.001)
        made.door.start_draining()
        assert await idle.reader.read() == b""
        assert not made.door.idle.is_set()
        release.set()
        reply = await busy.read_reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        await asyncio.wait_for(made.door.idle.wait(), 5)


async def test_a_replica_that_cannot_be_reached_is_given_up_in_time() -> None:
    async with scene(queue_wait_ms_max=100) as made:
        await made.replica.stop()
        reply = await (await made.client()).chat()
        assert (reply.status, reply.error["code"]) == (503, "no_capacity")
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.FAILED, Counts())
        await made.replica.start()
