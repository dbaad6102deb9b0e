"""The door's loops: it serves while control is away, and a stop waits for answers and for those who read them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from tests.integration.gateway.harness import Call, Scene, answer_events, chat_request, http_request, scene, until
from tests.integration.gateway.upstream import Asked, controlled_scene
from tokenworks.gateway import tasks
from tokenworks.kit.errors import UpstreamError
from tokenworks.region.model import Snapshot


class FakeSource:
    """Gives what a test puts in, and then nothing more."""

    def __init__(self) -> None:
        self.etags: list[str] = []
        self._outcomes: asyncio.Queue[Snapshot | UpstreamError | None] = asyncio.Queue()

    def put(self, *outcomes: Snapshot | UpstreamError | None) -> None:
        for outcome in outcomes:
            self._outcomes.put_nowait(outcome)

    async def next(self, etag: str) -> Snapshot | None:
        self.etags.append(etag)
        outcome = await self._outcomes.get()
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome


@asynccontextmanager
async def following(made: Scene, source: FakeSource) -> AsyncIterator[None]:
    task = asyncio.create_task(tasks.follow_snapshot(made.door, source))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _snapshot(made: Scene, etag: str) -> Snapshot:
    return msgspec.structs.replace(made.door.directory().snapshot, etag=etag)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_RETRY_MS_MIN", 1)
    monkeypatch.setattr(tasks, "_RETRY_MS_MAX", 4)


async def test_snapshots_are_applied_and_asked_for_by_the_last_etag() -> None:
    async with scene() as made:
        source = FakeSource()
        source.put(_snapshot(made, "one"), _snapshot(made, "two"))
        async with following(made, source):
            await until(lambda: len(source.etags) == 3)
        assert source.etags == ["e", "one", "two"]
        assert made.door.etag == "two"
        assert made.door.has_snapshot.is_set()


async def test_a_snapshot_that_still_holds_is_confirmed() -> None:
    async with scene(snapshot_age_ms_max=1000) as made:
        made.door._confirmed_at_ms -= 2000
        client = await made.client()
        assert (await client.chat()).error["code"] == "snapshot_too_old"
        source = FakeSource()
        source.put(None)
        async with following(made, source):
            await until(lambda: len(source.etags) == 2)
        assert (await client.chat(max_tokens=1)).status == 200


async def test_while_control_is_away_the_last_snapshot_serves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tokenworks.gateway.tasks")
    async with scene() as made:
        source = FakeSource()
        source.put(*[UpstreamError("nobody listens")] * 4)
        async with following(made, source):
            await until(lambda: len(source.etags) == 5)
            assert (await (await made.client()).chat(max_tokens=1)).status == 200
            source.put(_snapshot(made, "new"))
            await until(lambda: made.door.etag == "new")
    assert [record.getMessage() for record in caplog.records] == [
        "control is away, serving from the last snapshot: nobody listens",
        "control is back",
    ]


async def test_a_door_that_never_heard_from_control_says_so_and_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as made:
        snapshot, made.door._directory = made.door.directory().snapshot, None
        source = FakeSource()
        source.put(UpstreamError("nobody listens"))
        async with following(made, source):
            await until(lambda: len(source.etags) == 2)
            assert made.door.etag == ""
            assert made.door.reason("tiny") == "no snapshot"
            reply = await (await made.client()).chat()
            assert (reply.status, reply.error["code"]) == (503, "starting")
            source.put(snapshot)
            await until(lambda: made.door.etag)
    assert caplog.records == []


async def test_the_tick_comes_again_and_again() -> None:
    async with scene(progress_ms=10, idle_ms_max=10) as made:
        count = 0
        tick = made.door.tick

        def counted() -> None:
            nonlocal count
            count += 1
            tick()

        made.door.tick = counted  # type: ignore[method-assign]  # it is counted
        task = asyncio.create_task(tasks.tick(made.door))
        await until(lambda: count > 2)
        task.cancel()


# draining


async def test_an_idle_door_is_drained_at_once() -> None:
    async with scene() as made:
        client = await made.client()
        assert (await client.request("GET", "/healthz")).status == 200
        assert await asyncio.wait_for(tasks.drain(made.door), 2)
        assert await client.reader.read() == b""


async def test_a_large_answer_to_a_slow_reader_arrives_whole_while_draining() -> None:
    tokens = 2000

    async def large(call: Call) -> None:
        await call.answer(answer_events(tokens))

    async with scene(write_buffer_bytes=1_000_000) as made:
        made.replica.behaviour = large
        client = await made.slow_client()
        await client.send(chat_request())
        await made.settled()
        draining = asyncio.create_task(tasks.drain(made.door))
        await asyncio.wait_for(made.door.idle.wait(), 2)
        await asyncio.sleep(0.02)
        assert not draining.done()
        reply = await client.read_reply()
        choices = reply.json["choices"]
        assert isinstance(choices, list)
        assert choices[0]["message"]["content"].endswith(f"t{tokens} ")
        assert await asyncio.wait_for(draining, 2)


async def test_an_answer_of_control_is_waited_for() -> None:
    go_on = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await go_on.wait()
        await asked.reply(b"hello")

    async with controlled_scene() as (made, control):
        control.answering = slow
        client = await made.client()
        await client.send(http_request("GET", "/docs"))
        await until(lambda: control.asked)
        draining = asyncio.create_task(tasks.drain(made.door))
        await asyncio.sleep(0.01)
        assert not draining.done()
        go_on.set()
        reply = await client.read_reply()
        assert (reply.body, reply.headers["connection"]) == (b"hello", "close")
        assert await asyncio.wait_for(draining, 2)


async def test_draining_ends_in_time_whoever_hangs() -> None:
    async def hang(call: Call) -> None:
        await call.gone()

    async with scene(drain_ms_max=20) as made:
        made.replica.behaviour = hang
        await (await made.client()).send(chat_request())
        await until(lambda: made.replica.calls)
        assert not await asyncio.wait_for(tasks.drain(made.door), 2)
