"""Control as the program that the supervisor starts: killed, raced, told to stop, left alone, and unable to start."""

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.cluster.service import ProcessService
from tokenworks.hub.adapters.packaged import PackagedModel
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import TokenworksError, UnavailableError
from tokenworks.kit.http1 import fetch

REGION_KEY = "r" * 43


class NoProcesses:
    """A supervisor that starts nothing."""

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        raise UnavailableError(f"{spec.process_id} cannot be started here")

    async def stop(self, process_id: str) -> None:
        pass

    async def list(self) -> tuple[ProcessStatus, ...]:
        return ()


@pytest.fixture
async def home(short_folder: Path) -> AsyncIterator[Path]:
    """A home as the supervisor leaves it to control, with its socket for processes."""
    (short_folder / "run").mkdir()
    service = ProcessService(NoProcesses(), short_folder / "run" / "cluster.sock")
    await service.open()
    yield short_folder
    await service.close()


def start(home: Path, line: bytes | None = None, **settings: Any) -> subprocess.Popen[bytes]:
    dumped = Settings(home=home, **settings).model_dump(mode="json")
    process = subprocess.Popen(
        (sys.executable, "-m", "tokenworks.server.control"),
        cwd=home / "run" if (home / "run").exists() else home,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(line or json.dumps({"settings": dumped, "region_key": REGION_KEY}).encode() + b"\n")
    process.stdin.flush()
    return process


async def end(process: subprocess.Popen[bytes], number: int | None = None) -> tuple[int, str]:
    """Send a signal, if one is given, and wait for the end: exit code and the last line of stderr."""
    if number is not None:
        process.send_signal(number)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        code = await asyncio.to_thread(process.wait)
    lines = process.stderr.read().decode().splitlines()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    return code, lines[-1] if lines else ""


async def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            assert process.poll() is None, (await end(process))[1]
            await asyncio.sleep(0.002)


async def answers(home: Path, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """The catalogue, as soon as control tells it to the administrator."""
    async with asyncio.timeout(20):
        while True:
            assert process.poll() is None, (await end(process))[1]
            try:
                key = (home / "admin.key").read_text().strip()
                response = await fetch(
                    f"unix:{home}/run/control.sock",
                    "GET",
                    "/admin/v1/models",
                    headers=(("authorization", f"Bearer {key}"),),
                    timeout_ms=5_000,
                )
            except (OSError, TokenworksError):
                await asyncio.sleep(0.01)
                continue
            assert response.status == 200, response
            return list(json.loads(response.body)["data"])


def check_home(home: Path) -> None:
    """One administrator whose key is in the file, one model whose bytes are whole, nothing half done."""
    key = (home / "admin.key").read_text().strip()
    database = sqlite3.connect(home / "tokenworks.db")
    hashes = [row[0] for row in database.execute("SELECT key_sha256 FROM api_keys")]
    digests = [row[0] for row in database.execute("SELECT digest FROM models")]
    database.close()
    assert hashes == [hashlib.sha256(key.encode()).hexdigest()]
    blobs = [path for path in (home / "blobs" / "sha256").rglob("*") if path.is_file()]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs] == digests
    assert len(digests) == 1
    assert list((home / "blobs" / "tmp").iterdir()) == []
    assert list(home.glob(".*.tmp")) == []


async def test_it_answers_and_stops_cleanly(home: Path) -> None:
    process = start(home)
    (model,) = await answers(home, process)
    assert model["digest"] == hashlib.sha256(PackagedModel().find().read_bytes()).hexdigest()
    code, last = await end(process, signal.SIGTERM)
    assert code == 0, last
    assert not (home / "run" / "control.sock").exists()
    check_home(home)


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the key appears": lambda home: (home / "admin.key").exists(),
    "the import begins": lambda home: any((home / "blobs" / "tmp").glob("*")),
    "the import is half done": lambda home: any(
        path.exists() and path.stat().st_size > 40_000_000 for path in (home / "blobs" / "tmp").glob("*")
    ),
    "the blob is there": lambda home: any((home / "blobs" / "sha256").glob("*/*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at_any_moment_it_is_whole_after_the_next_start(home: Path, moment: str) -> None:
    process = start(home)
    await until(lambda: MOMENTS[moment](home), process)
    code, _ = await end(process, signal.SIGKILL)
    assert code == -signal.SIGKILL
    process = start(home)
    await answers(home, process)
    code, last = await end(process, signal.SIGTERM)
    assert code == 0, last
    check_home(home)


async def test_two_that_start_at_once_make_one_home(home: Path) -> None:
    processes = [start(home), start(home)]
    for process in processes:
        await answers(home, process)
    for process in processes:
        code, last = await end(process, signal.SIGTERM)
        assert code == 0, last
    process = start(home)
    await answers(home, process)
    await end(process, signal.SIGTERM)
    check_home(home)


async def test_told_to_stop_while_it_prepares_it_stops(home: Path) -> None:
    process = start(home)
    await until((home / "tokenworks.db").exists, process)
    code, last = await end(process, signal.SIGTERM)
    assert code == 0, last


async def test_it_ends_with_its_parent(home: Path) -> None:
    process = start(home)
    await answers(home, process)
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(process.wait) == 3
    await end(process)


async def test_a_database_that_cannot_be_opened_is_one_sentence(home: Path) -> None:
    (home / "tokenworks.db").mkdir()
    code, last = await end(start(home))
    assert code == 2
    assert last.startswith(f"cannot open the database {home}/tokenworks.db")


async def test_a_damaged_database_is_one_sentence(home: Path) -> None:
    (home / "tokenworks.db").write_bytes(b"no database at all " * 1000)
    code, last = await end(start(home))
    assert (code, last) == (2, f"the database {home}/tokenworks.db is damaged; restore it from a backup")


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[]\n", b'{"settings": {}, "region_key": "x", "more": 1}\n'])
async def test_a_configuration_that_is_none_is_one_sentence(home: Path, line: bytes) -> None:
    code, last = await end(start(home, line))
    assert code == 2
    assert last
    assert "Traceback" not in last
