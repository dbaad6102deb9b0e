"""Keeps the snapshot that doors follow: made again when something changed, told to all who wait within milliseconds.

Also takes in what doors ship, and tells how everything is.
"""

import asyncio
from collections.abc import Sequence

from tokenworks import __version__
from tokenworks.accounts.service import Accounts
from tokenworks.cluster.model import ProcessStatus
from tokenworks.kit.clock import Clock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import UnavailableError
from tokenworks.metering import service as metering
from tokenworks.metering.model import Position
from tokenworks.region import wire
from tokenworks.region.model import Snapshot, SnapshotDeployment
from tokenworks.region.policy import make_snapshot
from tokenworks.region.ports import Sources
from tokenworks.serving.model import Deployment, Replica
from tokenworks.serving.service import explain


class Region:
    """One region's snapshot. Belongs to one event loop."""

    def __init__(self, clock: Clock, accounts: Accounts, sources: Sources, *, doors: int) -> None:
        self._clock = clock
        self._accounts = accounts
        self._sources = sources
        self._doors = doors
        self._started_at_ms = clock.now_ms()
        self._making = asyncio.Lock()
        self._change = asyncio.Event()
        self._is_closed = False
        self._version = 1
        self._made_version = 0
        self._snapshot: Snapshot | None = None

    def changed(self) -> None:
        """Say that keys, deployments or replicas changed. Call it after the commit; it never waits."""
        self._version += 1
        self._change.set()
        self._change = asyncio.Event()

    def close(self) -> None:
        """Answer everybody who waits, so that control can end."""
        self._is_closed = True
        self.changed()

    async def snapshot(self, database: Database) -> Snapshot:
        """The snapshot of this moment."""
        async with self._making:
            if self._snapshot is None or self._made_version != self._version:
                # Taken before reading: a change during the reading makes it stale again.
                version = self._version
                self._snapshot = await self._make(database)
                self._made_version = version
            return self._snapshot

    async def follow(self, database: Database, etag: str, wait_ms: int) -> Snapshot | None:
        """The snapshot as soon as it differs from `etag`, or None if it did not within `wait_ms`."""
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            change = self._change
            snapshot = await self.snapshot(database)
            if snapshot.etag != etag:
                return snapshot
            if self._is_closed:
                return None
            try:
                async with asyncio.timeout_at(deadline):
                    await change.wait()
            except TimeoutError:
                return None

    async def position(self, database: Database, journal_id: str) -> Position:
        """Up to where control has a journal."""
        async with database.read() as connection:
            return await metering.find_position(connection, journal_id)

    async def ingest(self, database: Database, journal_id: str, begins: Position, data: bytes) -> Position:
        """Take over a shipment in one transaction; return where the next one begins.

        Raises:
            PositionConflictError: it does not begin where control stands; nothing was taken.
            StorageFullError, UnavailableError: nothing was taken; ship it again later.
        """
        async with database.write() as connection:
            return await metering.ingest(
                connection, journal_id, begins.segment, begins.offset, data, self._clock.now_ms()
            )

    async def status(self, database: Database) -> wire.Status:
        """How everything is at this moment."""
        snapshot = await self.snapshot(database)
        async with database.read() as connection:
            deployments = await self._sources.deployments(connection)
            journals = await metering.list_journals(connection)
        found = {deployment.name: deployment for deployment in snapshot.deployments}
        rows = [_deployment_status(each, found[each.name]) for each in deployments if each.name in found]
        return wire.Status(
            version=__version__,
            is_ready=bool(rows) and all(row.is_ready for row in rows),
            started_at_ms=self._started_at_ms,
            now_ms=self._clock.now_ms(),
            doors=self._doors,
            deployments=rows,
            replicas=[_replica_status(replica) for replica in self._sources.replicas()],
            processes=[_process_status(process) for process in await self._processes()],
            journals=[
                wire.JournalStatus(each.journal_id, each.position.segment, each.position.offset, each.moved_at_ms)
                for each in journals
            ],
        )

    async def _processes(self) -> Sequence[ProcessStatus]:
        try:
            return await self._sources.processes()
        except UnavailableError:
            # The rest of the status is worth telling while the supervisor cannot be asked.
            return ()

    async def _make(self, database: Database) -> Snapshot:
        async with database.read() as connection:
            keys = await self._accounts.list_keys(connection)
            deployments = await self._sources.deployments(connection)
        replicas = self._sources.replicas()
        reasons = {deployment.name: explain(deployment, replicas) for deployment in deployments}
        return make_snapshot(keys, deployments, replicas, reasons, doors=self._doors, now_ms=self._clock.now_ms())


def _deployment_status(deployment: Deployment, now: SnapshotDeployment) -> wire.DeploymentStatus:
    return wire.DeploymentStatus(
        name=deployment.name,
        model=deployment.model,
        engine=deployment.engine,
        is_ready=now.is_ready,
        reason=now.reason,
        replicas_wanted=deployment.replicas,
        replicas_ready=len(now.replicas),
    )


def _replica_status(replica: Replica) -> wire.ReplicaStatus:
    return wire.ReplicaStatus(
        id=replica.replica_id,
        deployment=replica.deployment,
        state=replica.state.value,
        reason=replica.reason,
        since_ms=replica.since_ms_wall,
        pid=replica.pid,
        restarts=replica.restarts,
    )


def _process_status(process: ProcessStatus) -> wire.ProcessStatus:
    return wire.ProcessStatus(process.process_id, process.pid, process.started_at_ms, process.exit_code)
