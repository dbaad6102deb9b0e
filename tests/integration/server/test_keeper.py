"""A program that cannot be run at all: fatal at the first start, waited for later."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.cluster.programs import ANNOUNCE, make_local, make_spec
from tokenworks.cluster.model import ProcessSpec
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.errors import StartError
from tokenworks.server.keeper import Keeper, Waits


async def test_the_first_start_must_succeed(tmp_path: Path) -> None:
    said: list[str] = []
    spec = ProcessSpec("control", ("/nonexistent/program",), {}, "control")
    with pytest.raises(StartError, match="there is no program"):
        await Keeper(make_local(tmp_path), spec, Waits(1, 10), SystemClock(), said.append).keep()
    assert said == []


async def test_later_starts_are_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nrm "$0"\nexit 7\n')
    program.chmod(0o700)
    said: list[str] = []
    local = make_local(tmp_path)
    spec = ProcessSpec("door-0", (str(program),), {}, "door-0")
    keeping = asyncio.create_task(Keeper(local, spec, Waits(1, 10), SystemClock(), said.append).keep())
    async with asyncio.timeout(10):
        while len(said) < 3:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert said[0] == "door-0 ended with code 7; it is started again in 1 ms"
    assert "door-0 could not be started: cannot start door-0: there is no program" in said[1]
    assert said[2].endswith("in 4 ms")


async def test_the_process_outlives_its_keeper(tmp_path: Path) -> None:
    local = make_local(tmp_path)
    keeping = asyncio.create_task(Keeper(local, make_spec(ANNOUNCE), Waits(1, 10), SystemClock(), print).keep())
    async with asyncio.timeout(10):
        while not (await local.list()):
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert [one.exit_code for one in await local.list()] == [None]
    await local.stop_all()
