"""The admin routes of serving, over ASGI."""

from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from fastapi import FastAPI, Request

from tokenworks.kit.db import Database
from tokenworks.kit.errors import AuthenticationError
from tokenworks.server.errors import add_error_handlers
from tokenworks.serving import wire
from tokenworks.serving.api import make_router
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.service import Serving

DEPLOYMENT = Deployment("small", "default/small", ("alias",), "llamacpp", 1, 4, 2048, 2048, 1)
REPLICA = Replica(
    "replica_1", "small", ReplicaState.STARTING, 5, "loading", "127.0.0.1:1", "secret", 7, 2, since_ms_wall=99
)
GOOD = {"authorization": "Bearer good"}


async def check_admin(request: Request) -> None:
    if request.headers.get("authorization") != "Bearer good":
        raise AuthenticationError("no")


@pytest.fixture
async def serving(database: Database) -> Serving:
    serving = Serving(lambda: None)
    async with database.write() as connection:
        await serving.ensure_deployment(connection, DEPLOYMENT)
    serving.put_replica(REPLICA)
    return serving


@pytest.fixture
async def client(serving: Serving, database: Database) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(make_router(serving, database, check_admin))
    add_error_handlers(app)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://control") as client:
        yield client


async def test_deployments_say_why_they_are_not_ready(client: httpx2.AsyncClient, serving: Serving) -> None:
    answer = await client.get("/admin/v1/deployments", headers=GOOD)
    (row,) = msgspec.json.decode(answer.content, type=wire.DeploymentList).data
    assert (row.name, row.aliases, row.replicas_ready, row.is_ready) == ("small", ("alias",), 0, False)
    assert row.reason == "its replica is starting: loading"
    serving.put_replica(Replica("replica_2", "small", ReplicaState.READY, 6, "", "127.0.0.1:2", "k", 8, 0))
    answer = await client.get("/admin/v1/deployments", headers=GOOD)
    (row,) = msgspec.json.decode(answer.content, type=wire.DeploymentList).data
    assert (row.replicas_ready, row.is_ready, row.reason) == (1, True, "")


async def test_replicas_are_listed_without_their_keys(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/admin/v1/replicas", headers=GOOD)
    (row,) = msgspec.json.decode(answer.content, type=wire.ReplicaList).data
    assert row == wire.ReplicaRow("replica_1", "small", "starting", 99, "loading", "127.0.0.1:1", 7, 2, None)
    assert b"secret" not in answer.content
    answer = await client.get("/admin/v1/replicas?deployment=other", headers=GOOD)
    assert answer.json() == {"data": []}


@pytest.mark.parametrize("path", ["/admin/v1/deployments", "/admin/v1/replicas"])
async def test_strangers_are_refused(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 401


async def test_an_unknown_filter_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/admin/v1/replicas?state=ready", headers=GOOD)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "state")
