"""The main of control: `python -m tokenworks.server.control`, started by the supervisor, configuration on stdin.

It makes what must exist (schema, default organization and key, default model and deployment), looks what runs already,
and only then answers on `control.sock` in its working folder. Exit code 0 after SIGTERM, 2 when it cannot start (the
last line on stderr says why), anything else is a bug; the supervisor starts it again.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from tokenworks.cluster.adapters.remote import RemoteProcesses
from tokenworks.cluster.child import read_config
from tokenworks.hub.model import Model
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import StartError, TokenworksError
from tokenworks.kit.files import storage_error
from tokenworks.kit.log import set_up_logging
from tokenworks.server.schema import migrate
from tokenworks.server.wiring import Control, build_control
from tokenworks.serving.model import DEFAULT_DEPLOYMENT, Deployment

SOCKET = Path("control.sock")
DEFAULT_MODEL = "default/SmolLM2-135M-Instruct"

_CANNOT_START = 2
_CLUSTER_SOCKET = Path("cluster.sock")
_SETTLE_MS_MAX = 5_000
_STOP_S_MAX = 3
_CONNECTIONS_MAX = 2_048
_IDLE_S_MAX = 75

_log = logging.getLogger("tokenworks.control")


class ControlConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What the supervisor hands over."""

    settings: dict[str, object]
    region_key: str


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    try:
        config = msgspec.convert(read_config(), ControlConfig)
        settings = Settings.model_validate(config.settings)
        set_up_logging(settings.log_level)
        return uvloop.run(_run(settings, config.region_key))
    except (StartError, msgspec.ValidationError) as error:
        sys.stderr.write(f"{error}\n")
        return _CANNOT_START


async def _run(settings: Settings, region_key: str) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    processes = RemoteProcesses(_CLUSTER_SOCKET)
    control = build_control(settings, region_key, processes, processes.list_with_others)
    try:
        if await _unless(stopping, prepare(control)):
            await serve(control, SOCKET, stopping)
    finally:
        await control.database.close()
    return 0


async def prepare(control: Control) -> None:
    """Make what must exist. May be interrupted anywhere and done again.

    Raises:
        StartError: something cannot be made; the message says what to do.
    """
    try:
        await migrate(control.database)
        async with control.database.write() as connection:
            notice = await control.accounts.ensure_defaults(connection, control.key_file)
        if notice:
            _log.warning("%s", notice)
        removed = await control.blobs.prepare()
        if removed:
            _log.info("removed %d unfinished files from the blobs", removed)
        model = await control.hub.ensure_file(control.database, control.find_default_model, DEFAULT_MODEL)
        deployment = make_default_deployment(control.settings, model, control.clock.now_ms())
        async with control.database.write() as connection:
            await control.serving.ensure_deployment(connection, deployment)
    except TokenworksError as error:
        raise StartError(error.message) from error


def make_default_deployment(settings: Settings, model: Model, now_ms: int) -> Deployment:
    """The deployment that exists from the first start; settings change it at the next.

    Raises:
        StartError: the settings want more than the model can do.
    """
    context_tokens = settings.serving.context_tokens
    if context_tokens > model.context_tokens:
        raise StartError(
            f"the setting 'serving.context_tokens' is {context_tokens}, but {model.name} was made for at most "
            f"{model.context_tokens}; set TOKENWORKS_SERVING__CONTEXT_TOKENS to no more than that"
        )
    return Deployment(
        name=DEFAULT_DEPLOYMENT,
        model=model.name,
        aliases=(model.name,),
        engine="llamacpp",
        replicas=1,
        slots=settings.serving.slots,
        context_tokens=context_tokens,
        output_tokens_max=context_tokens,
        created_at_ms=now_ms,
    )


async def serve(control: Control, path: Path, stopping: asyncio.Event) -> None:
    """Answer on the socket and run the loops until `stopping`; then finish what was begun, within limits.

    Raises:
        StartError: there can be no socket.
    """
    with _bind(path) as listener:
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(control.serving_loop.run(), name="serving")
            if not await control.serving.wait_settled(_SETTLE_MS_MAX):
                _log.warning("not every replica of an earlier run has answered yet")
            server = _make_server(control)
            answering = group.create_task(server.serve(sockets=[listener]), name="answering")
            await stopping.wait()
            control.region.close()
            server.should_exit = True
            await answering
            loop.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process before the database is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _make_server(control: Control) -> _Server:
    config = uvicorn.Config(
        control.app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_keep_alive=_IDLE_S_MAX,
        timeout_graceful_shutdown=_STOP_S_MAX,
    )
    return _Server(config)


@contextmanager
def _bind(path: Path) -> Iterator[socket.socket]:
    """A socket that only this user may open, not yet listening. What lies there belonged to one that ended."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with closing(listener):
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            os.chmod(path, 0o600)
        except OSError as error:
            raise StartError(storage_error(error, path.absolute()).message) from error
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; True if it was done, False if it was given up because `stopping` was set."""
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    with suppress(asyncio.CancelledError):
        await doing
    return False


if __name__ == "__main__":
    sys.exit(main())
