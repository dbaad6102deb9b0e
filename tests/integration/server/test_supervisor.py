"""The supervisor with small children: start, ready, ends and restarts of each part, stop, and kill -9 of all."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.integration.server.programs import Up
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import UpstreamError
from tokenworks.kit.http1 import fetch
from tokenworks.server.home import find_holder
from tokenworks.server.supervisor import stop


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    up = Up(tmp_path / "a home")
    yield up
    await up.kill()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)


async def ask_pid(address: str) -> int:
    """Who answers: the process of the door."""
    answer = await fetch(address, "GET", "/readyz", timeout_ms=5_000)
    return int(json.loads(answer.body)["pid"])


async def test_up_and_down(up: Up) -> None:
    await up.start()
    address = await up.until_ready()
    assert await ask_pid(address) == up.pids("door")[0]
    assert any(line.startswith("control ") and line.endswith(" run") for line in up.notes()), "children work in run/"
    assert any(line.endswith("index 0 key 43") for line in up.notes())
    assert up.home.stat().st_mode & 0o777 == 0o700
    assert (up.home / "run" / "cluster.sock").stat().st_mode & 0o777 == 0o600
    assert (up.home / "run" / "address").read_text() == f"http://{address}"
    holder = find_holder(up.home)
    assert holder is not None
    assert up.process is not None
    assert (holder.pid, holder.address) == (up.process.pid, f"http://{address}")
    assert await asyncio.to_thread(stop, Settings(home=up.home))
    assert await up.end() == 0
    assert up.notes()[-2:] == ["door stops", "control stops"], "doors first, so that they can ship"
    assert not (up.home / "run" / "address").exists()
    assert not await asyncio.to_thread(stop, Settings(home=up.home))
    with pytest.raises(UpstreamError):
        await ask_pid(address)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_each_signal_stops_it_cleanly(up: Up, number: signal.Signals) -> None:
    await up.start()
    await up.until_ready()
    assert await up.stop(number) == 0
    assert "door stops" in up.notes()
    assert "control stops" in up.notes()


async def test_a_second_signal_stops_at_once(up: Up) -> None:
    up.prepare()
    (up.home / "stubborn").touch()
    await up.start()
    await up.until_ready()
    assert up.process is not None
    up.process.terminate()
    await asyncio.sleep(0.2)
    assert await up.stop() == 1
    assert not any(is_alive(pid) for kind in ("door", "control") for pid in up.pids(kind))


async def test_a_stop_before_it_is_ready(up: Up) -> None:
    up.prepare()
    (up.home / "not-ready").touch()
    await up.start()
    await until(lambda: bool(up.pids("door")))
    assert await up.stop() == 0


async def test_a_killed_door_comes_back_and_refuses_nobody(up: Up) -> None:
    await up.start()
    address = await up.until_ready()
    first = await ask_pid(address)
    os.kill(first, signal.SIGKILL)
    # It connects at once, waits in the socket, and is answered by the next door.
    second = await ask_pid(address)
    assert second != first
    assert up.process is not None
    up.process.terminate()
    assert "tokenworks: door-0 was ended by signal 9; it is started again in 50 ms" in await up.error()


async def test_a_killed_control_comes_back_and_finds_its_replicas(up: Up) -> None:
    up.prepare()
    (up.home / "replica").touch()
    await up.start()
    await up.until_ready()
    await until(lambda: bool(up.pids("replica")))
    os.kill(up.pids("control")[0], signal.SIGKILL)
    await until(lambda: len(up.pids("control")) == 2)
    (replica,) = up.pids("replica")
    assert is_alive(replica)
    assert await up.stop() == 0
    assert up.notes()[-3:] == ["door stops", "control stops", "replica stops"]


async def test_a_control_that_cannot_start_is_fatal_the_first_time_only(up: Up) -> None:
    up.prepare()
    (up.home / "control-fails").touch()
    await up.start()
    assert (await up.error()).splitlines()[-1] == "SENTENCE the database is damaged; restore it from a backup"
    assert find_holder(up.home) is None
    (up.home / "control-fails").unlink()
    await up.start()
    await up.until_ready()
    (up.home / "control-fails").touch()
    os.kill(up.pids("control")[-1], signal.SIGKILL)
    await asyncio.sleep(0.5)
    (up.home / "control-fails").unlink()
    count = len(up.pids("control"))
    await until(lambda: len(up.pids("control")) > count)
    assert await up.stop() == 0


async def test_a_reader_that_has_left_ends_nothing(up: Up) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    await up.start(stdout=writing)
    os.close(writing)
    await until(lambda: bool(up.pids("door")))
    assert up.process is not None
    assert up.process.stderr is not None
    async with asyncio.timeout(15):
        said = (await up.process.stderr.readline()).decode()
    assert "but cannot say so on its output (Broken pipe)" in said
    assert await ask_pid((up.home / "run" / "address").read_text().removeprefix("http://")) == up.pids("door")[0]
    assert await up.stop() == 0


async def test_a_door_that_ends_again_and_again_waits_longer(up: Up) -> None:
    up.prepare()
    (up.home / "door-fails").touch()
    await up.start()
    await asyncio.sleep(1.5)
    assert up.process is not None
    up.process.terminate()
    said = await up.error()
    assert "door-0 ended with code 4 (the journal failed); it is started again in 50 ms" in said
    assert "in 100 ms" in said


async def test_kill_9_of_the_supervisor_leaves_nobody(up: Up) -> None:
    up.prepare()
    (up.home / "replica").touch()
    (up.home / "stubborn").touch()
    await up.start()
    address = await up.until_ready()
    await until(lambda: bool(up.pids("replica")))
    await up.kill()
    pids = [pid for kind in ("door", "control", "replica") for pid in up.pids(kind)]
    assert len(pids) == 3
    await until(lambda: not any(is_alive(pid) for pid in pids))
    (up.home / "stubborn").unlink()
    # What it left behind (sockets, addresses, lock files) is in nobody's way.
    port = int(address.rpartition(":")[2])
    again = Up(up.home, port)
    await again.start()
    try:
        assert await again.until_ready() == address
        assert await again.stop() == 0
    finally:
        await again.kill()


@pytest.mark.parametrize("delay_s", [0.15, 0.3, 0.4, 0.5])
async def test_kill_9_in_the_middle_of_starting_leaves_nobody(up: Up, delay_s: float) -> None:
    await up.start()
    await asyncio.sleep(delay_s)
    await up.kill()
    await until(lambda: not _who_works_in(up.home / "run"))


def _who_works_in(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder and is_alive(int(path.name)):
                found.append(int(path.name))
        except OSError:
            continue
    return found


async def test_a_second_up_on_the_same_home_is_a_sentence(up: Up) -> None:
    await up.start()
    address = await up.until_ready()
    other = Up(up.home)
    await other.start()
    said = await other.error()
    assert up.process is not None
    assert f"is already in use by process {up.process.pid} at http://{address}; stop it with 'tokenworks down'" in said
    assert "Traceback" not in said
    assert await up.stop() == 0


async def test_a_taken_port_is_a_sentence(up: Up, tmp_path: Path) -> None:
    await up.start()
    address = await up.until_ready()
    other = Up(tmp_path / "other", int(address.rpartition(":")[2]))
    await other.start()
    said = await other.error()
    assert "is taken by another program; stop it, or set TOKENWORKS_PORT" in said
    assert "Traceback" not in said
    assert await up.stop() == 0


async def test_several_doors_share_the_port(tmp_path: Path) -> None:
    up = Up(tmp_path / "home", TOKENWORKS_DOORS="2")
    await up.start()
    try:
        address = await up.until_ready()
        seen = {await ask_pid(address) for _ in range(40)}
        assert seen == set(up.pids("door"))
        assert len(seen) == 2
        assert await up.stop() == 0
    finally:
        await up.kill()


async def test_a_long_wait_says_why(up: Up) -> None:
    up.prepare()
    (up.home / "not-ready").touch()
    await up.start()
    assert up.process is not None
    assert up.process.stderr is not None
    async with asyncio.timeout(15):
        line = (await up.process.stderr.readline()).decode()
    assert line == "tokenworks: not ready yet: the model is being loaded\n"
    (up.home / "not-ready").unlink()
    await up.until_ready()
    assert await up.stop() == 0


async def test_clients_get_many_files(up: Up) -> None:
    await up.start()
    await up.until_ready()
    limits = Path(f"/proc/{up.pids('door')[0]}/limits").read_text()
    soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
    assert soft == hard or int(soft) >= 1_048_576
    assert await up.stop() == 0


async def test_a_new_client_is_refused_while_it_stops(up: Up) -> None:
    up.prepare()
    await up.start()
    address = await up.until_ready()
    assert await up.stop() == 0
    with socket.socket() as one:
        host, port = address.split(":")
        assert one.connect_ex((host, int(port))) != 0
