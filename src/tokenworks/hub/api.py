"""Route of the catalogue: `GET /admin/v1/models`. Any good key may read it."""

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from tokenworks.accounts.service import Accounts
from tokenworks.hub import wire
from tokenworks.hub.service import Hub
from tokenworks.kit.asgi import reply
from tokenworks.kit.db import Database


def make_router(hub: Hub, accounts: Accounts, database: Database) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["hub"])

    async def list_models(request: Request) -> Response:
        """All models of the catalogue, by name."""
        async with database.read() as connection:
            await accounts.authenticate(connection, request.headers.get("authorization"))
            found = await hub.list(connection)
        return reply(wire.ModelList([wire.ModelRow(**asdict(model)) for model in found]))

    router.add_api_route(wire.MODELS_LIST.path, list_models, methods=[wire.MODELS_LIST.method])
    return router
