"""The three calls of a region, opened by the region's key, and the status for an administrator.

Doors reach these routes over control's unix socket; a door never relays `/region` from outside.
"""

import hmac

from fastapi import APIRouter, Request, Response

from tokenworks.accounts.model import Scope
from tokenworks.accounts.service import Accounts
from tokenworks.kit.asgi import read_body, read_query, reply
from tokenworks.kit.db import Database
from tokenworks.kit.errors import AuthenticationError
from tokenworks.metering.model import Position, PositionConflictError
from tokenworks.metering.wire import JournalPosition, JournalReached
from tokenworks.region import wire
from tokenworks.region.service import Region

_RECORD_BYTES_MAX = 131_072
"""A shipment holds whole records, so it may pass its limit by one."""

_WAIT_MS_MAX = 60_000


def make_region_router(region: Region, database: Database, region_key: str, ship_bytes_max: int) -> APIRouter:
    """`/region/v1`."""
    assert len(region_key) >= 32, "the region's key must not be guessable"
    routes = _Routes(region, database, region_key, ship_bytes_max + _RECORD_BYTES_MAX)
    router = APIRouter(tags=["region"], include_in_schema=False)
    router.add_api_route("/region/v1/snapshot", routes.snapshot, methods=["GET"])
    router.add_api_route("/region/v1/journals/{journal_id}", routes.position, methods=["GET"])
    router.add_api_route("/region/v1/journals/{journal_id}/{segment}", routes.ingest, methods=["POST"])
    return router


def make_status_router(region: Region, accounts: Accounts, database: Database) -> APIRouter:
    """`/admin/v1/status`."""
    router = APIRouter(tags=["status"])

    async def status(request: Request) -> Response:
        """How this tokenworks is."""
        async with database.read() as connection:
            await accounts.authenticate(connection, request.headers.get("authorization"), Scope.ADMIN)
        return reply(await region.status(database))

    router.add_api_route(wire.STATUS.path, status, methods=[wire.STATUS.method])
    return router


class _Routes:
    def __init__(self, region: Region, database: Database, region_key: str, body_bytes_max: int) -> None:
        self._region = region
        self._database = database
        self._authorization = f"Bearer {region_key}".encode()
        self._body_bytes_max = body_bytes_max

    async def snapshot(self, request: Request) -> Response:
        """200 with the snapshot, or 304 if it is still the one with that etag after `wait_ms`."""
        self._check(request)
        wanted = read_query(request, wire.SnapshotWanted)
        wait_ms = min(max(wanted.wait_ms, 0), _WAIT_MS_MAX)
        snapshot = await self._region.follow(self._database, wanted.etag, wait_ms)
        return Response(status_code=304) if snapshot is None else reply(snapshot)

    async def position(self, request: Request) -> Response:
        """Up to where control has this journal."""
        self._check(request)
        wanted = read_query(request, wire.JournalNamed)
        position = await self._region.position(self._database, wanted.journal_id)
        return reply(JournalPosition(position.segment, position.offset))

    async def ingest(self, request: Request) -> Response:
        """Take in a part of a journal; 409 if it does not begin where control stands."""
        self._check(request)
        wanted = read_query(request, wire.Shipment)
        data = await read_body(request, self._body_bytes_max)
        begins = Position(wanted.segment, wanted.offset)
        try:
            reached = await self._region.ingest(self._database, wanted.journal_id, begins, data)
        except PositionConflictError as error:
            return reply(JournalReached(error.position.segment, error.position.offset), 409)
        return reply(JournalReached(reached.segment, reached.offset))

    def _check(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._authorization):
            raise AuthenticationError("only the doors of this region may call this", code="invalid_region_key")
