"""Deployments as rows, replicas as what is known of them now.

Replicas are in memory only: after a restart of control the loop (`tasks.py`) finds the running ones again by their
labels. `changed` is called whenever doors must hear of a replica.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.serving import store
from tokenworks.serving.model import Deployment, Replica, ReplicaState


class Serving:
    """Use cases of serving."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._replicas: dict[str, Replica] = {}
        self._settled = asyncio.Event()

    async def ensure_deployment(self, connection: AsyncConnection, deployment: Deployment) -> bool:
        """Make the deployment be as given; True if that changed anything. Call `changed` after the commit then."""
        present = await store.find_deployment(connection, deployment.name)
        if present is None:
            await store.add_deployment(connection, deployment)
            return True
        if present == replace(deployment, created_at_ms=present.created_at_ms):
            return False
        await store.change_deployment(connection, deployment)
        return True

    async def list_deployments(self, connection: AsyncConnection) -> list[Deployment]:
        """All deployments, by name."""
        return await store.list_deployments(connection)

    def list_replicas(self, deployment: str | None = None) -> tuple[Replica, ...]:
        """All replicas, or those of one deployment, in the order of their start."""
        return tuple(
            replica for replica in self._replicas.values() if deployment is None or replica.deployment == deployment
        )

    def find_replica(self, replica_id: str) -> Replica | None:
        """The replica with that id."""
        return self._replicas.get(replica_id)

    def put_replica(self, replica: Replica) -> None:
        """Take over what is known of a replica now."""
        before = self._replicas.get(replica.replica_id)
        self._replicas[replica.replica_id] = replica
        if before is None or _seen_by_doors(before) != _seen_by_doors(replica):
            self._changed()

    def forget_replica(self, replica_id: str) -> None:
        """Show it no longer."""
        if self._replicas.pop(replica_id, None) is not None:
            self._changed()

    def settle(self) -> None:
        """The replicas of an earlier control have been found and asked."""
        self._settled.set()

    async def wait_settled(self, timeout_ms: int) -> bool:
        """Wait until what runs is known, so that doors are not told for a moment that nothing does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._settled.wait()
        return self._settled.is_set()


def explain(deployment: Deployment, replicas: Sequence[Replica]) -> str:
    """Why a deployment cannot answer, in a sentence; empty when it can."""
    own = [replica for replica in replicas if replica.deployment == deployment.name]
    if any(replica.state is ReplicaState.READY for replica in own):
        return ""
    if deployment.replicas == 0:
        return f"the deployment {deployment.name!r} wants no replica"
    if not own:
        return "its replica has not been started yet"
    latest = max(own, key=lambda replica: replica.since_ms)
    return f"its replica is {latest.state.value}" + (f": {latest.reason}" if latest.reason else "")


def _seen_by_doors(replica: Replica) -> tuple[object, ...]:
    return replica.state, replica.address, replica.reason
