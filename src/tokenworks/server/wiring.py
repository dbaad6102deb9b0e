"""Joins ports to adapters: what control is made of. Nothing here decides; nothing else imports adapters of slices."""

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from tokenworks import __version__
from tokenworks.accounts import api as accounts_api
from tokenworks.accounts.adapters.key_file import DiskKeyFile
from tokenworks.accounts.model import ApiKey, Scope
from tokenworks.accounts.ports import KeyFile
from tokenworks.accounts.service import Accounts
from tokenworks.blobs.adapters.disk import DiskBlobStore, read_chunks
from tokenworks.cluster.ports import Processes
from tokenworks.hub import api as hub_api
from tokenworks.hub.adapters.gguf_header import read_gguf_header
from tokenworks.hub.adapters.packaged import PackagedModel
from tokenworks.hub.ports import FindFile
from tokenworks.hub.service import Hub
from tokenworks.kit.clock import Clock, SystemClock
from tokenworks.kit.config import Settings
from tokenworks.kit.db import Database, sqlite_url
from tokenworks.kit.errors import StartError
from tokenworks.kit.ids import RandomIds, make_secret
from tokenworks.metering import api as metering_api
from tokenworks.region import api as region_api
from tokenworks.region.ports import ListProcesses, Sources
from tokenworks.region.service import Region
from tokenworks.server.errors import add_error_handlers
from tokenworks.serving import api as serving_api
from tokenworks.serving.adapters.llamacpp import LlamaCpp
from tokenworks.serving.policy import Limits
from tokenworks.serving.service import Serving
from tokenworks.serving.tasks import Outside, ServingLoop

_Authenticate = Callable[[Request], Awaitable[ApiKey]]


@dataclass(frozen=True, slots=True)
class Control:
    """Control, joined and not yet started."""

    settings: Settings
    clock: Clock
    database: Database
    blobs: DiskBlobStore
    key_file: KeyFile
    find_default_model: FindFile
    accounts: Accounts
    hub: Hub
    region: Region
    serving: Serving
    serving_loop: ServingLoop
    app: FastAPI


def build_control(
    settings: Settings, region_key: str, processes: Processes, list_every: ListProcesses | None = None
) -> Control:
    """Make control's parts. Opens nothing yet. `list_every` lists the processes that are not control's own, too.

    Raises:
        StartError: a setting names something that does not exist here.
    """
    clock = SystemClock()
    database = _make_database(settings)
    blobs = _make_blobs(settings)
    accounts = Accounts(clock, RandomIds(), make_secret)
    hub = Hub(clock, blobs, read_gguf_header, read_chunks)
    serving = Serving(lambda: region.changed())  # noqa: PLW0108 - the two know each other; region is made below
    sources = Sources(serving.list_deployments, serving.list_replicas, list_every or processes.list)
    region = Region(clock, accounts, sources, doors=settings.doors)
    return Control(
        settings=settings,
        clock=clock,
        database=database,
        blobs=blobs,
        key_file=DiskKeyFile(settings.home / "admin.key"),
        find_default_model=PackagedModel().find,
        accounts=accounts,
        hub=hub,
        region=region,
        serving=serving,
        serving_loop=_make_loop(settings, serving, database, hub, processes),
        app=_make_app(
            accounts_api.make_router(accounts, database, region.changed),
            hub_api.make_router(hub, accounts, database),
            metering_api.make_router(database.for_reports(), _authenticate_by(accounts, database, None)),
            serving_api.make_router(serving, database, _authenticate_by(accounts, database, Scope.ADMIN)),
            region_api.make_status_router(region, accounts, database),
            region_api.make_region_router(region, database, region_key, settings.metering.ship_bytes_max),
        ),
    )


class HubFiles:
    """Finds the file of a model for serving: the catalogue's row, then its blob."""

    def __init__(self, hub: Hub, database: Database) -> None:
        self._hub = hub
        self._database = database

    async def local_path(self, model: str) -> Path:
        async with self._database.read() as connection:
            found = await self._hub.get(connection, model)
        return await self._hub.local_path(found)


def _make_app(*routers: APIRouter) -> FastAPI:
    app = FastAPI(title="tokenworks", version=__version__, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    for router in routers:
        app.include_router(router)
    return app


def _authenticate_by(accounts: Accounts, database: Database, scope: Scope | None) -> _Authenticate:
    async def authenticate(request: Request) -> ApiKey:
        async with database.read() as connection:
            return await accounts.authenticate(connection, request.headers.get("authorization"), scope)

    return authenticate


def _make_database(settings: Settings) -> Database:
    if not settings.database_url:
        return Database(sqlite_url(settings.home / "tokenworks.db"))
    way_out = "write sqlite+aiosqlite:////ABSOLUTE/PATH, or leave it empty"
    try:
        url = make_url(settings.database_url)
        _check_absolute(url, settings.home)
        return Database(url)
    except ValueError:
        # Its text repeats what stands in the place of the port, which may be a password.
        raise StartError(f"the setting 'database_url' cannot be used (its port is not a number); {way_out}") from None
    except (SQLAlchemyError, ImportError) as error:
        raise StartError(f"the setting 'database_url' cannot be used ({error}); {way_out}") from error


def _check_absolute(url: URL, home: Path) -> None:
    """Every process has a working folder of its own: a relative file would lie where nobody looks for it."""
    if url.get_backend_name() != "sqlite" or Path(url.database or "").is_absolute():
        return
    shown = url.database or "nothing"
    absolute = home / ("tokenworks.db" if shown in ("nothing", ":memory:") else shown)
    raise StartError(
        f"the setting 'database_url' names the file {shown!r}, which is no absolute path;"
        f" write sqlite+aiosqlite:///{absolute}, or leave it empty"
    )


def _make_blobs(settings: Settings) -> DiskBlobStore:
    if settings.blob_url:
        raise StartError("the setting 'blob_url' cannot be used yet: leave it empty to keep blobs on this disk")
    return DiskBlobStore(settings.home / "blobs")


def _make_loop(settings: Settings, serving: Serving, database: Database, hub: Hub, processes: Processes) -> ServingLoop:
    part = settings.serving
    outside = Outside(
        processes=processes,
        engines={"llamacpp": LlamaCpp(sys.executable, part.threads or _count_cores())},
        files=HubFiles(hub, database),
        clock=SystemClock(),
        ids=RandomIds(),
        make_secret=make_secret,
    )
    limits = Limits(
        start_ms_max=part.start_ms_max,
        probe_ms_max=part.probe_ms_max,
        drain_ms_max=settings.gateway.drain_ms_max,
        stop_ms_max=part.stop_ms_max,
        restart_wait_ms_min=part.restart_wait_ms_min,
        restart_wait_ms_max=part.restart_wait_ms_max,
    )
    return ServingLoop(serving, database, outside, limits, part.probe_interval_ms)


def _count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
