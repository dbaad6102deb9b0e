"""Routes of serving: `/admin/v1/deployments`, `/admin/v1/replicas`. They need the scope `admin`."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from tokenworks.kit.asgi import read_query, reply
from tokenworks.kit.db import Database
from tokenworks.serving import wire
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.service import Serving, explain

CheckAdmin = Callable[[Request], Awaitable[object]]
"""Raises unless the request carries a key that may administer."""


def make_router(serving: Serving, database: Database, check_admin: CheckAdmin) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["serving"])

    async def list_deployments(request: Request) -> Response:
        """All deployments, and whether each can answer."""
        await check_admin(request)
        async with database.read() as connection:
            found = await serving.list_deployments(connection)
        return reply(wire.DeploymentList([_deployment_row(one, serving.list_replicas(one.name)) for one in found]))

    async def list_replicas(request: Request) -> Response:
        """Replicas with their states and reasons."""
        await check_admin(request)
        wanted = read_query(request, wire.ReplicasWanted)
        return reply(wire.ReplicaList([_replica_row(one) for one in serving.list_replicas(wanted.deployment)]))

    router.add_api_route(wire.DEPLOYMENTS_LIST.path, list_deployments, methods=[wire.DEPLOYMENTS_LIST.method])
    router.add_api_route(wire.REPLICAS_LIST.path, list_replicas, methods=[wire.REPLICAS_LIST.method])
    return router


def _deployment_row(deployment: Deployment, replicas: tuple[Replica, ...]) -> wire.DeploymentRow:
    ready = sum(replica.state is ReplicaState.READY for replica in replicas)
    return wire.DeploymentRow(
        name=deployment.name,
        model=deployment.model,
        aliases=deployment.aliases,
        engine=deployment.engine,
        replicas=deployment.replicas,
        replicas_ready=ready,
        slots=deployment.slots,
        context_tokens=deployment.context_tokens,
        output_tokens_max=deployment.output_tokens_max,
        created_at_ms=deployment.created_at_ms,
        is_ready=ready > 0,
        reason=explain(deployment, replicas),
    )


def _replica_row(replica: Replica) -> wire.ReplicaRow:
    return wire.ReplicaRow(
        id=replica.replica_id,
        deployment=replica.deployment,
        state=replica.state.value,
        since_ms=replica.since_ms_wall,
        reason=replica.reason,
        address=replica.address,
        pid=replica.pid,
        restarts=replica.restarts,
        requests_running=replica.requests_running,
    )
