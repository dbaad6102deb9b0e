"""Slots and their queue when things go wrong: whatever happens to one request, the others get their turn."""

import asyncio

import msgspec
import pytest

from tests.integration.gateway.harness import (
    DONE,
    MODEL,
    Call,
    RawClient,
    Scene,
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
from tests.integration.gateway.upstream import HeldPool
from tokenworks.gateway.door import Door
from tokenworks.gateway.exchange import ChatExchange
from tokenworks.kit.errors import StorageFullError
from tokenworks.metering.model import Closed, Counts, Record, Status


class Gate:
    """A replica that answers when it may."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await self.is_open.wait()
        await call.answer(answer_events(1))


async def _queue_up(made: Scene, count: int, **parameters: object) -> list[RawClient]:
    """So many clients that wait for a slot."""
    before = made.door.admission(MODEL).waiting
    clients = [await made.client() for _ in range(count)]
    for client in clients:
        await client.send(chat_request(**parameters))
    await until(lambda: made.door.admission(MODEL).waiting == before + count)
    return clients


async def _hold_a_slot(made: Scene, **parameters: object) -> tuple[RawClient, Gate]:
    gate = Gate()
    made.replica.behaviour = gate
    count = len(made.replica.calls)
    client = await made.client()
    await client.send(chat_request(**parameters))
    await until(lambda: len(made.replica.calls) > count)
    return client, gate


def _revoke(made: Scene) -> None:
    snapshot = made.door.directory().snapshot
    keys = tuple(msgspec.structs.replace(key, is_revoked=True) for key in snapshot.keys)
    made.door.apply(msgspec.structs.replace(snapshot, keys=keys, etag="revoked"))


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_disk_that_fills_up_refuses_all_who_wait_and_leaks_no_slot(is_stream: bool) -> None:
    bugs = caught_bugs()
    async with scene(slots=1) as made:
        first, gate = await _hold_a_slot(made)
        others = await _queue_up(made, 300, stream=is_stream)
        made.journal.is_full = True
        gate.is_open.set()
        assert (await first.read_reply()).status == 200
        for other in others:
            reply = await other.read_reply()
            assert (reply.status, reply.error["code"]) == (503, "storage_full")
        assert (made.door.admission(MODEL).taken, len(made.replica.calls)) == (0, 1)
        made.journal.is_full = False
        assert (await others[0].chat(max_tokens=1)).status == 200
    assert bugs == []


async def test_a_snapshot_without_the_replica_while_it_is_being_reached_is_no_end() -> None:
    async with scene() as made:
        pool = HeldPool("")
        made.door._pools["rep_1"] = pool
        client = await made.client()
        await client.send(chat_request(max_tokens=2))
        await until(lambda: pool.held)
        made.publish(replicas=(), etag="gone")
        pool.held[0](OSError("it is gone"))
        assert made.door.admission(MODEL).waiting == 1
        made.publish(etag="back")
        assert (await client.read_reply()).status == 200
        (row,) = await made.settled()
        assert (row.status, row.counts) == (Status.COMPLETED, Counts(7, 2, 2))


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_client_that_leaves_while_the_replica_is_being_reached_asks_nothing(is_there: bool) -> None:
    async with scene() as made:
        pool = HeldPool(f"127.0.0.1:{made.replica.port}")
        made.door._pools["rep_1"] = pool
        client = await made.client()
        await client.send(chat_request())
        await until(lambda: pool.held)
        client.close()
        (row,) = await made.settled()
        connection = await pool.open()
        pool.held[0](connection if is_there else OSError("nobody listens"))
        assert connection.is_usable is not is_there
        connection.abort()
        assert (row.status, row.counts, made.replica.calls) == (Status.CANCELLED, Counts(), [])


async def test_a_deployment_that_is_deleted_keeps_no_one_waiting_for_long() -> None:
    async with scene(queue_wait_ms_max=40) as made:
        made.publish(replicas=())
        (client,) = await _queue_up(made, 1)
        made.door.apply(msgspec.structs.replace(made.door.directory().snapshot, deployments=(), etag="none"))
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (503, "no_capacity")
        assert "it was deleted" in str(reply.error["message"])


@pytest.mark.parametrize("is_left", [False, True])
async def test_one_that_waits_again_after_its_replica_was_lost_is_closed_in_time(is_left: bool) -> None:
    async def dies(call: Call) -> None:
        made.publish(replicas=(), etag="gone")
        call.die()

    async with scene(queue_wait_ms_max=5000 if is_left else 50) as made:
        made.replica.behaviour = dies
        client = await made.client()
        await client.send(chat_request())
        await until(lambda: made.door.admission(MODEL).waiting)
        if is_left:
            client.close()
        else:
            assert (await client.read_reply()).error["code"] == "no_capacity"
        (row,) = await made.settled()
        assert row.status is (Status.CANCELLED if is_left else Status.FAILED)
        assert len(made.journal.opened) == 1


async def test_a_refusal_that_was_cut_leaves_nothing_in_the_next_try() -> None:
    async def cut_once(call: Call) -> None:
        if len(made.replica.calls) == 1:
            call._writer.write(b'HTTP/1.1 400 No\r\ncontent-length: 500\r\n\r\n{"error":')
            await call._writer.drain()
            await asyncio.sleep(0.01)
            call.die()
        elif len(made.replica.calls) == 2:
            await call.refuse(400, b'{"error":{"message":"too long","type":"exceed_context_size_error"}}')
        else:
            await call.answer(answer_events(1))

    async with scene() as made:
        made.replica.behaviour = cut_once
        client = await made.client()
        assert (await client.chat()).error["code"] == "context_length_exceeded"
        assert (await client.chat()).status == 200


async def test_a_revoked_key_serves_no_request_that_was_pipelined_before() -> None:
    async with scene() as made:
        gate = Gate()
        made.replica.behaviour = gate
        client = await made.client()
        await client.send(chat_request() * 2)
        await until(lambda: made.replica.calls)
        _revoke(made)
        gate.is_open.set()
        assert (await client.read_reply()).status == 200
        assert (await client.read_reply()).error["code"] == "revoked_api_key"
        assert len(made.journal.opened) == 1


async def test_a_revoked_key_serves_no_request_that_waits_for_a_slot() -> None:
    async with scene(slots=1) as made:
        first, gate = await _hold_a_slot(made)
        waiting = await _queue_up(made, 3)
        _revoke(made)
        gate.is_open.set()
        assert (await first.read_reply()).status == 200
        for client in waiting:
            assert (await client.read_reply()).error["code"] == "revoked_api_key"
        assert len(made.journal.opened) == 1


async def test_more_choices_than_slots_block_nobody_while_there_is_no_replica() -> None:
    async with scene(slots=4) as made:
        made.publish(replicas=())
        reply = await (await made.client()).chat(n=5)
        assert (reply.status, reply.error["param"]) == (400, "n")
        (small,) = await _queue_up(made, 1, max_tokens=1)
        made.publish(etag="there")
        assert (await small.read_reply()).status == 200


async def test_one_that_wants_many_slots_and_leaves_lets_the_others_in() -> None:
    async with scene(slots=2) as made:
        first, gate = await _hold_a_slot(made)
        (wide,) = await _queue_up(made, 1, n=2)
        (small,) = await _queue_up(made, 1)
        wide.close()
        await until(lambda: len(made.replica.calls) == 2)
        gate.is_open.set()
        assert (await small.read_reply()).status == 200
        assert (await first.read_reply()).status == 200


async def test_chats_are_refused_while_the_door_stops() -> None:
    async with scene() as made:
        first, gate = await _hold_a_slot(made)
        await first.send(chat_request())
        await asyncio.sleep(0.01)
        second = await made.client()
        await until(lambda: len(made.door.connections) == 2)
        made.door.is_draining = True
        assert (await second.chat()).error["code"] == "stopping"
        gate.is_open.set()
        assert (await first.read_reply()).headers["connection"] == "close"
        assert await first.reader.read() == b""
        assert len(made.journal.opened) == 1


# bugs


async def test_a_bug_in_a_handler_is_a_500_and_the_connection_goes_on() -> None:
    bugs = caught_bugs()
    async with scene() as made:
        handle = made.door.handle
        count = 0

        def second_fails(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count == 2:
                raise KeyError("a bug")
            return handle(*arguments)  # type: ignore[arg-type]  # they are passed on

        made.door.handle = second_fails  # type: ignore[method-assign,assignment]  # it has a bug
        client = await made.client()
        await client.send(chat_request(max_tokens=1) * 3)
        assert [(await client.read_reply()).status for _ in range(3)] == [200, 500, 200]
        assert [type(bug) for bug in bugs] == [KeyError]


async def test_a_bug_at_an_admission_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: Door, *arguments: object) -> object:
        raise KeyError("a bug")

    bugs = caught_bugs()
    async with scene(slots=1) as made:
        first, gate = await _hold_a_slot(made)
        (second,) = await _queue_up(made, 1)
        monkeypatch.setattr(Door, "check_key", bug)
        gate.is_open.set()
        assert (await first.read_reply()).status == 200
        assert (await second.read_reply()).status == 500
        monkeypatch.undo()
        assert (await second.chat(max_tokens=1)).status == 200
        assert [type(each) for each in bugs] == [KeyError]


async def test_a_bug_at_a_tick_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: ChatExchange, now: float) -> None:
        raise KeyError("a bug")

    bugs = caught_bugs()
    async with scene() as made:
        first, gate = await _hold_a_slot(made)
        monkeypatch.setattr(ChatExchange, "check_times", bug)
        assert (await first.read_reply()).status == 500
        monkeypatch.undo()
        gate.is_open.set()
        assert (await first.chat(max_tokens=1)).status == 200
        (failed, _) = await made.settled(2)
        assert failed.status is Status.FAILED
        assert [type(each) for each in bugs] == [KeyError]


# records


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_left_before_its_records_were_durable_is_no_error(is_stream: bool) -> None:
    bugs = caught_bugs()
    async with scene() as made:
        made.journal.is_held = True
        client = await made.client()
        await client.send(chat_request(stream=is_stream, max_tokens=2))
        await until(lambda: made.journal.closed)
        client.close()
        await until(lambda: not made.door.connections)
        made.journal.is_held = False
        made.journal.flush()
        (row,) = await made.settled()
        assert row.status is Status.COMPLETED
    assert bugs == []


async def test_a_stream_that_begins_late_is_whole() -> None:
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.begin()
        await call.send(progress_event(7), role_event(), chunk_event(1, "t1 "))
        await go_on.wait()
        await call.send(chunk_event(2, "t2 "), finish_event("length"), usage_event(2), DONE)
        await call.end()

    async with scene() as made:
        made.replica.behaviour = slow
        made.journal.is_held = True
        client = await made.client()
        await client.send(chat_request(stream=True))
        await until(lambda: made.journal.progress and made.journal.progress[-1].counts.output_tokens)
        made.journal.is_held = False
        made.journal.flush()
        assert (await client.read_head())[0] == 200
        assert b"t1" in await client.read_chunk()
        go_on.set()
        assert b"t2" in await client.read_chunk()
        assert (await client.read_chunk()).endswith(DONE)


async def test_an_end_that_cannot_be_recorded_is_not_given() -> None:
    async with scene() as made:
        append = made.journal.append

        def fail(record: Record) -> int:
            if isinstance(record, Closed):
                raise StorageFullError("no room is left")
            return append(record)

        made.journal.append = fail  # type: ignore[method-assign]  # the journal's own limit is reached
        client = await made.client()
        await client.send(chat_request(stream=True))
        assert b"[DONE]" not in await client.reader.read()
        await until(lambda: not made.door.exchanges)


# retries


async def test_a_used_connection_that_was_closed_is_tried_again_in_the_same_slot() -> None:
    async def dies_second(call: Call) -> None:
        if len(made.replica.calls) == 2:
            call.die()
        else:
            await call.answer(answer_events(1))

    async with scene(slots=1) as made:
        made.replica.behaviour = dies_second
        client = await made.client()
        assert [(await client.chat()).status for _ in range(2)] == [200, 200]
        assert (len(made.replica.calls), len(made.journal.opened)) == (3, 2)
