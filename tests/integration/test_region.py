"""The snapshot over time: who waits hears of a change, and of nothing else."""

import asyncio

import pytest

from tokenworks.accounts.model import KeyRequest
from tokenworks.accounts.service import Accounts
from tokenworks.cluster.model import ProcessStatus
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import UnavailableError
from tokenworks.kit.ids import RandomIds, make_secret
from tokenworks.region.ports import Sources
from tokenworks.region.service import Region
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.service import Serving

DEPLOYMENT = Deployment("tiny", "default/Tiny", (), "llamacpp", 1, 8, 256, 256, 1)
READY = Replica("replica_1", "tiny", ReplicaState.READY, 7, "", "127.0.0.1:4711", "secret", 12, 0)


class Parts:
    """A region over real accounts and serving."""

    def __init__(self) -> None:
        self.serving = Serving(lambda: self.region.changed())  # noqa: PLW0108 - region is made below
        self.accounts = Accounts(SystemClock(), RandomIds(), make_secret)
        self.is_supervisor_away = False
        sources = Sources(self.serving.list_deployments, self.serving.list_replicas, self.list_processes)
        self.region = Region(SystemClock(), self.accounts, sources, doors=2)

    async def list_processes(self) -> list[ProcessStatus]:
        if self.is_supervisor_away:
            raise UnavailableError("away")
        return [ProcessStatus("replica_1", 12, 5, None, {}, "127.0.0.1:4711")]


@pytest.fixture
async def parts(database: Database) -> Parts:
    made = Parts()
    async with database.write() as connection:
        await made.accounts.create_organization(connection, "team")
        await made.serving.ensure_deployment(connection, DEPLOYMENT)
    return made


async def test_an_unknown_etag_is_answered_at_once(parts: Parts, database: Database) -> None:
    snapshot = await parts.region.follow(database, "", 60_000)
    assert snapshot is not None
    assert [deployment.name for deployment in snapshot.deployments] == ["tiny"]
    assert await parts.region.follow(database, snapshot.etag, 0) is None


async def test_who_waits_hears_of_a_revoked_key_and_of_a_replica(parts: Parts, database: Database) -> None:
    async with database.write() as connection:
        key, _ = await parts.accounts.create_key(connection, KeyRequest("team"))
    before = await parts.region.snapshot(database)
    waiting = [asyncio.create_task(parts.region.follow(database, before.etag, 60_000)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    async with database.write() as connection:
        await parts.accounts.revoke_key(connection, key.key_id)
    parts.region.changed()
    async with asyncio.timeout(1):
        revoked = await waiting[0]
        assert revoked is not None
        assert await waiting[1] == await waiting[2] == revoked
    assert revoked.keys[0].is_revoked
    following = asyncio.create_task(parts.region.follow(database, revoked.etag, 60_000))
    await asyncio.sleep(0.01)
    parts.serving.put_replica(READY)
    async with asyncio.timeout(1):
        ready = await following
    assert ready is not None
    assert ready.deployments[0].is_ready
    assert ready.deployments[0].replicas[0].slots == 4


async def test_a_change_that_changes_nothing_is_not_told(parts: Parts, database: Database) -> None:
    before = await parts.region.snapshot(database)
    waiting = asyncio.create_task(parts.region.follow(database, before.etag, 80))
    await asyncio.sleep(0.02)
    parts.region.changed()
    assert await waiting is None


async def test_a_change_while_it_is_made_is_not_lost(parts: Parts, database: Database) -> None:
    before = await parts.region.snapshot(database)
    parts.region.changed()
    making = asyncio.create_task(parts.region.follow(database, before.etag, 60_000))
    await asyncio.sleep(0)
    async with database.write() as connection:
        await parts.accounts.create_key(connection, KeyRequest("team"))
    parts.region.changed()
    async with asyncio.timeout(1):
        snapshot = await making
    assert snapshot is not None
    assert len(snapshot.keys) == 1


async def test_who_waits_is_let_go_at_the_end(parts: Parts, database: Database) -> None:
    before = await parts.region.snapshot(database)
    waiting = asyncio.create_task(parts.region.follow(database, before.etag, 60_000))
    await asyncio.sleep(0.01)
    parts.region.close()
    async with asyncio.timeout(1):
        assert await waiting is None


async def test_the_status_tells_what_there_is(parts: Parts, database: Database) -> None:
    status = await parts.region.status(database)
    assert (status.is_ready, status.doors) == (False, 2)
    assert status.deployments[0].reason
    assert [process.id for process in status.processes] == ["replica_1"]
    parts.serving.put_replica(READY)
    parts.is_supervisor_away = True
    status = await parts.region.status(database)
    assert status.is_ready
    assert (status.deployments[0].replicas_ready, status.deployments[0].replicas_wanted) == (1, 1)
    assert [(replica.id, replica.state, replica.pid) for replica in status.replicas] == [("replica_1", "ready", 12)]
    assert status.processes == []
    assert "secret" not in repr(status)
