"""The loop that keeps replicas, against a cluster and an engine that do what a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.integration.serving.fakes import FakeEngine, FakeFiles, FakeProcesses, ManualClock
from tokenworks.cluster.model import ProcessStatus
from tokenworks.kit.db import Database
from tokenworks.kit.errors import UnavailableError
from tokenworks.kit.ids import SequenceIds
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.policy import Limits
from tokenworks.serving.service import Serving
from tokenworks.serving.tasks import Outside, ServingLoop

DEPLOYMENT = Deployment("small", "default/small", ("alias",), "fake", 1, 4, 2048, 2048, 1)
LIMITS = Limits(
    start_ms_max=10_000,
    probe_ms_max=6_000,
    drain_ms_max=8_000,
    stop_ms_max=2_000,
    restart_wait_ms_min=500,
    restart_wait_ms_max=30_000,
)


class AwayDatabase(Database):
    """A database that cannot be reached."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        raise UnavailableError("the database is locked by another program")
        yield  # type: ignore[unreachable]  # what makes it a generator


class Bench:
    """A loop and all around it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock()
        self.processes = FakeProcesses()
        self.engine = FakeEngine()
        self.heard: list[int] = []
        self.ids = SequenceIds()
        self.restart_control()

    def restart_control(self) -> None:
        """Forget everything that a control keeps in memory."""
        self.serving = Serving(lambda: self.heard.append(1))
        outside = Outside(
            self.processes, {"fake": self.engine}, FakeFiles(), self.clock, self.ids, lambda: self.ids.new("secret")
        )
        self.loop = ServingLoop(self.serving, self.database, outside, LIMITS, 1_000)

    async def want(self, deployment: Deployment) -> bool:
        async with self.database.write() as connection:
            return await self.serving.ensure_deployment(connection, deployment)

    async def step(self, after_ms: int = 0) -> None:
        """Let time pass, look once, and let what was begun come through."""
        self.clock.time_ms += after_ms
        await self.loop.step()
        for _ in range(8):
            await asyncio.sleep(0)

    async def get_ready(self) -> Replica:
        await self.want(DEPLOYMENT)
        await self.step()
        await self.step()
        assert self.replica.state is ReplicaState.READY
        return self.replica

    @property
    def replica(self) -> Replica:
        (replica,) = self.serving.list_replicas()
        return replica


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    bench = Bench(database)
    yield bench
    bench.engine.hangs = False
    for task in bench.loop._tasks.values():
        task.cancel()
    await asyncio.gather(*bench.loop._tasks.values(), return_exceptions=True)


async def test_a_deployment_becomes_a_ready_replica(bench: Bench) -> None:
    await bench.want(DEPLOYMENT)
    await bench.step()
    assert bench.replica.state is ReplicaState.STARTING
    await bench.step()
    replica = bench.replica
    assert (replica.state, replica.address, replica.reason) == (ReplicaState.READY, "127.0.0.1:1", "")
    (spec,) = bench.processes.specs
    assert spec.process_id == replica.replica_id
    assert spec.config == {"path": "/models/small.gguf", "key": replica.key}
    assert spec.labels["key"] == replica.key
    assert spec.stop_ms_max == 2_000
    # A token came out once; then the cheap question is enough.
    await bench.step(1_000)
    assert bench.engine.asked == ["measure", "generate", "measure"]
    assert bench.heard


async def test_only_a_token_makes_it_ready(bench: Bench) -> None:
    bench.engine.no_token = "it answered 500"
    await bench.want(DEPLOYMENT)
    for _ in range(3):
        await bench.step(100)
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.STARTING, "it answered 500")
    await bench.step(10_000)
    assert bench.replica.state is ReplicaState.FAILED
    assert bench.replica.reason == "no token came within 10000 ms; last: it answered 500"


async def test_a_dead_replica_is_started_again_after_a_wait(bench: Bench) -> None:
    first = await bench.get_ready()
    bench.processes.end(first.replica_id, -9)
    await bench.step()
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.FAILED, "its process was ended by signal 9")
    await bench.step(400)
    assert bench.replica.replica_id == first.replica_id
    assert bench.processes.listed == {}
    await bench.step(100)
    await bench.step()
    assert bench.replica.state is ReplicaState.READY
    assert bench.replica.replica_id != first.replica_id
    assert bench.replica.key != first.key
    assert bench.replica.restarts == 1


@pytest.mark.parametrize("shift_ms", [-3_600_000, 3_600_000])
async def test_a_wall_clock_that_is_set_changes_no_wait(bench: Bench, shift_ms: int) -> None:
    first = await bench.get_ready()
    bench.clock.wall_shift_ms = shift_ms
    bench.engine.silence = "connection refused"
    await bench.step(1_000)
    await bench.step(5_000)
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.READY, "connection refused")
    await bench.step(1_000)
    assert bench.replica.reason == "it has not answered for 6000 ms; last: connection refused"
    assert bench.replica.since_ms_wall == bench.clock.time_ms + shift_ms
    bench.engine.silence = ""
    await bench.step()
    await bench.step(500)
    await bench.step()
    assert bench.replica.state is ReplicaState.READY
    assert bench.replica.replica_id != first.replica_id


@pytest.mark.parametrize(
    ("deployment", "reason"),
    [
        (replace(DEPLOYMENT, engine="other"), "there is no engine 'other'"),
        (replace(DEPLOYMENT, model="default/gone"), "there is no model 'default/gone'"),
    ],
)
async def test_what_cannot_start_says_why_and_is_tried_again(bench: Bench, deployment: Deployment, reason: str) -> None:
    await bench.want(deployment)
    await bench.step()
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.FAILED, reason)
    await bench.step(500)
    assert bench.replica.restarts == 1


async def test_a_refused_start_says_why(bench: Bench) -> None:
    bench.processes.refusal = "this machine has no room"
    await bench.want(DEPLOYMENT)
    await bench.step()
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.FAILED, "this machine has no room")


async def test_a_silent_replica_fails_in_time_and_no_sooner(bench: Bench) -> None:
    await bench.get_ready()
    bench.engine.silence = "connection refused"
    await bench.step(1_000)
    await bench.step(5_000)
    assert (bench.replica.state, bench.replica.reason) == (ReplicaState.READY, "connection refused")
    bench.engine.silence = ""
    await bench.step()
    assert bench.replica.reason == ""
    bench.engine.silence = "connection refused"
    await bench.step()
    await bench.step(6_000)
    assert bench.replica.state is ReplicaState.FAILED
    assert bench.replica.reason == "it has not answered for 6000 ms; last: connection refused"


async def test_one_hanging_replica_holds_nobody_up(bench: Bench) -> None:
    await bench.get_ready()
    bench.engine.hangs = True
    for _ in range(3):
        async with asyncio.timeout(5):
            await bench.step(1_000)
    await bench.want(replace(DEPLOYMENT, name="second"))
    await bench.step()
    assert len(bench.processes.specs) == 2
    assert bench.engine.asked.count("measure") <= 3, "one question at a time"


async def test_a_restarted_control_adopts_what_runs(bench: Bench) -> None:
    before = await bench.get_ready()
    bench.restart_control()
    bench.engine.asked.clear()
    assert not await bench.serving.wait_settled(1)
    await bench.step()
    after = bench.replica
    assert (after.replica_id, after.key, after.address) == (before.replica_id, before.key, before.address)
    assert after.state is ReplicaState.READY
    assert bench.engine.asked == ["measure"], "its counters show that tokens came out of it"
    assert await bench.serving.wait_settled(1)
    assert len(bench.processes.specs) == 1


async def test_it_is_settled_at_once_when_nothing_runs(bench: Bench) -> None:
    await bench.step()
    assert await bench.serving.wait_settled(1)


async def test_it_is_settled_when_the_adopted_do_not_answer(bench: Bench) -> None:
    await bench.get_ready()
    bench.restart_control()
    bench.engine.silence = "refused"
    await bench.step()
    assert await bench.serving.wait_settled(1)


async def test_a_strange_process_is_stopped(bench: Bench) -> None:
    bench.processes.listed["stranger"] = ProcessStatus("stranger", 5, 0, None, {}, None)
    await bench.step()
    assert bench.processes.listed == {}
    assert bench.serving.list_replicas() == ()


async def test_a_dead_adopted_process_is_replaced(bench: Bench) -> None:
    before = await bench.get_ready()
    bench.processes.end(before.replica_id, 2, "no room")
    bench.restart_control()
    await bench.step()
    assert bench.replica.reason == "its process ended with code 2: no room"
    await bench.step(1_000)
    await bench.step()
    await bench.step()
    assert bench.replica.state is ReplicaState.READY


async def test_a_changed_deployment_drains_the_old_replica(bench: Bench) -> None:
    old = await bench.get_ready()
    bench.engine.requests_running = 2
    assert await bench.want(replace(DEPLOYMENT, slots=8, created_at_ms=99))
    await bench.step()
    await bench.step(2_000)
    draining = bench.serving.find_replica(old.replica_id)
    assert draining is not None
    assert (draining.state, draining.requests_running) == (ReplicaState.DRAINING, 2)
    assert "was changed" in draining.reason
    bench.engine.requests_running = 0
    await bench.step()
    await bench.step()
    await bench.step()
    stopped = bench.serving.find_replica(old.replica_id)
    assert stopped is not None
    assert stopped.state is ReplicaState.STOPPED
    assert old.replica_id not in bench.processes.listed
    await bench.step(60_000)
    assert bench.replica.state is ReplicaState.READY
    assert bench.processes.specs[-1].labels["slots"] == "8"


async def test_a_cluster_that_is_away_changes_nothing(bench: Bench) -> None:
    ready = await bench.get_ready()
    bench.processes.is_away = True
    await bench.step(1_000)
    await bench.step(60_000)
    assert bench.replica == ready
    bench.processes.is_away = False
    bench.processes.listed.clear()
    await bench.step()
    assert bench.replica.reason == "its process is gone: tokenworks itself was restarted"


async def test_a_replica_that_starts_while_the_list_travels_is_not_gone(bench: Bench) -> None:
    await bench.want(DEPLOYMENT)
    bench.processes.announces = False
    await bench.loop.step()
    bench.processes.list_gate = asyncio.Event()
    looking = asyncio.create_task(bench.loop.step())
    for _ in range(200):
        await asyncio.sleep(0.001)
        if bench.processes.specs:
            break
    bench.processes.list_gate.set()
    await looking
    assert bench.replica.state is ReplicaState.STARTING


async def test_deployments_are_kept_while_the_database_is_away(bench: Bench) -> None:
    await bench.get_ready()
    away = AwayDatabase("sqlite+aiosqlite:////nowhere/a.db")
    bench.loop._database = away
    await bench.step(1_000)
    await away.close()
    assert bench.replica.state is ReplicaState.READY


async def test_ensuring_twice_changes_nothing(bench: Bench) -> None:
    assert await bench.want(DEPLOYMENT)
    assert not await bench.want(replace(DEPLOYMENT, created_at_ms=77))
    async with bench.database.read() as connection:
        assert await bench.serving.list_deployments(connection) == [DEPLOYMENT]
    assert await bench.want(replace(DEPLOYMENT, replicas=2, created_at_ms=77))
    async with bench.database.read() as connection:
        assert await bench.serving.list_deployments(connection) == [replace(DEPLOYMENT, replicas=2)]


async def test_the_loop_runs_by_itself_until_cancelled(bench: Bench) -> None:
    await bench.want(DEPLOYMENT)
    running = asyncio.create_task(bench.loop.run())
    async with asyncio.timeout(5):
        while not any(one.state is ReplicaState.READY for one in bench.serving.list_replicas()):
            await asyncio.sleep(0.01)
    bench.engine.hangs = True
    bench.loop.wake()
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.loop._tasks == {}
    assert len(bench.processes.listed) == 1, "replicas outlive control"


async def test_a_bug_ends_the_loop(bench: Bench) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    bench.engine.generate = broken  # type: ignore[method-assign, assignment]  # a bug, put in on purpose
    await bench.want(DEPLOYMENT)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            await bench.loop.run()
