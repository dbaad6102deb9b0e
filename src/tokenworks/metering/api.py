"""Routes of metering: `/admin/v1/usage` and `/admin/v1/usage/requests`, for reading.

A key with the scope `admin` sees every organization, any other key its own.
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Protocol

from fastapi import APIRouter, Request, Response

from tokenworks.kit.asgi import read_query, reply
from tokenworks.kit.db import Database
from tokenworks.kit.errors import InvalidRequestError, PermissionDeniedError
from tokenworks.metering import service, wire
from tokenworks.metering.model import SumBy, Usage, UsageFilter, UsageSum

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Identity(Protocol):
    """Who asks."""

    @property
    def organization(self) -> str:
        """Whose usage it is."""
        ...

    @property
    def scopes(self) -> Collection[str]:
        """What the key may do; `admin` opens every organization."""
        ...


Authenticate = Callable[[Request], Awaitable[Identity]]
"""Tells who asks, or raises AuthenticationError."""


def make_router(database: Database, authenticate: Authenticate) -> APIRouter:
    """The routes."""
    routes = _Routes(database, authenticate)
    router = APIRouter(tags=["usage"])
    router.add_api_route(wire.USAGE_REQUESTS.path, routes.list_requests, methods=["GET"])
    router.add_api_route(wire.USAGE_SUMS.path, routes.sum_usage, methods=["GET"])
    return router


class _Routes:
    def __init__(self, database: Database, authenticate: Authenticate) -> None:
        self._database = database
        self._authenticate = authenticate

    async def list_requests(self, request: Request) -> Response:
        """What each request used, a page at a time."""
        identity = await self._authenticate(request)
        wanted = read_query(request, wire.RequestsWanted)
        if wanted.order not in ("newest", "oldest"):
            raise InvalidRequestError(f"order is {wanted.order[:80]!r}, it must be newest or oldest", param="order")
        chosen = _choose_filter(identity, wanted)
        async with self._database.read() as connection:
            found, next_cursor = await service.list_requests(
                connection, chosen, wanted.limit, wanted.cursor, newest_first=wanted.order == "newest"
            )
        return reply(wire.UsagePage([_usage_row(usage) for usage in found], next_cursor))

    async def sum_usage(self, request: Request) -> Response:
        """Sums by key, project, model, day or hour."""
        identity = await self._authenticate(request)
        wanted = read_query(request, wire.SumsWanted)
        chosen = _choose_filter(identity, wanted)
        async with self._database.read() as connection:
            found = await service.sum_usage(connection, wanted.by, chosen)
        return reply(wire.UsageSums([_sum_row(wanted.by, each) for each in found]))


def format_time(milliseconds: int) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-01-31T12:00:00.000Z`."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _choose_filter(identity: Identity, wanted: wire.RequestsWanted | wire.SumsWanted) -> UsageFilter:
    organization = wanted.organization
    if "admin" not in identity.scopes:
        organization = organization or identity.organization
        if organization != identity.organization:
            raise PermissionDeniedError(
                f"this key sees the usage of {identity.organization!r} only; others need the scope admin",
                param="organization",
            )
    for name in ("since_ms", "until_ms"):
        time_ms = getattr(wanted, name)
        if time_ms is not None and abs(time_ms) >= 2**63:
            raise InvalidRequestError(f"{name} is {time_ms}, which is no time", param=name)
    return UsageFilter(
        organization=organization,
        project=wanted.project,
        key_id=wanted.key,
        model=wanted.model,
        since_ms=wanted.since_ms,
        until_ms=wanted.until_ms,
    )


def _usage_row(usage: Usage) -> wire.UsageRow:
    return wire.UsageRow(
        request_id=usage.request_id,
        client_request_id=usage.client_request_id,
        organization=usage.organization,
        project=usage.project,
        key_id=usage.key_id,
        model=usage.model,
        input_tokens=usage.counts.input_tokens,
        cached_input_tokens=usage.counts.cached_input_tokens,
        output_tokens=usage.counts.output_tokens,
        cost_nano=usage.cost_nano,
        currency=usage.currency,
        energy_microjoules=usage.energy_microjoules,
        energy_source=usage.energy_source,
        status=usage.status.value,
        reason=usage.reason,
        started_at=format_time(usage.started_at_ms),
        ended_at=format_time(usage.ended_at_ms),
    )


def _sum_row(by: SumBy, found: UsageSum) -> wire.UsageSumRow:
    return wire.UsageSumRow(
        by=by.value,
        name=found.name if isinstance(found.name, str) else format_time(found.name),
        organization=found.organization or None,
        requests=found.requests,
        input_tokens=found.counts.input_tokens,
        cached_input_tokens=found.counts.cached_input_tokens,
        output_tokens=found.counts.output_tokens,
        cost_nano=found.cost_nano,
        currency=found.currency,
        energy_microjoules=found.energy_microjoules,
    )
