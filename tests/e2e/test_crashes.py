"""kill -9 of each process under load: who got the end of an answer has one row with its counts, and all comes back."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.load import Load, child_pid, load
from tokenworks.testing.running import Running, running

CLIENTS = 12


@pytest.fixture
def own() -> Iterator[Running]:
    with running() as started:
        yield started


def _kill(own: Running, module: str) -> int:
    assert own.process is not None
    pid = child_pid(own.process.pid, module)
    os.kill(pid, signal.SIGKILL)
    return pid


async def usage_rows(own: Running, seen: Load) -> dict[str, dict[str, Any]]:
    """All usage rows, once every id that a client saw is among them."""
    wanted = {each.request_id for each in seen.ended} | set(seen.left)
    async with asyncio.timeout(30):
        while True:
            result = await asyncio.to_thread(own.run, "usage", "--requests", "--json")
            assert result.returncode == 0, result.stderr
            rows = json.loads(result.stdout)
            if wanted <= {row["request_id"] for row in rows}:
                break
            await asyncio.sleep(0.2)
    counted = Counter(row["request_id"] for row in rows)
    assert set(counted.values()) <= {1}
    return {row["request_id"]: row for row in rows}


def check_rows(rows: dict[str, dict[str, Any]], seen: Load) -> None:
    assert seen.ended
    for each in seen.ended:
        row = rows[each.request_id]
        assert (row["status"], row["input_tokens"], row["output_tokens"]) == (
            "completed",
            each.input_tokens,
            each.output_tokens,
        )
    for request_id in seen.left:
        assert rows[request_id]["status"] in ("cancelled", "completed", "interrupted")
        assert rows[request_id]["output_tokens"] <= 14


async def test_a_killed_control_is_noticed_by_nobody(own: Running) -> None:
    async with load(own, CLIENTS, leaving=True) as seen:
        await seen.more(20)
        _kill(own, "tokenworks.server.control")
        await seen.more(60)
    assert seen.errors == []
    check_rows(await usage_rows(own, seen), seen)


async def test_a_killed_replica_fails_its_answers_and_is_replaced(own: Running) -> None:
    async with load(own, CLIENTS, leaving=True) as seen:
        await seen.more(20)
        _kill(own, "tokenworks.server.replica")
        await seen.more(40)
    rows = await usage_rows(own, seen)
    check_rows(rows, seen)
    failed = [row for row in rows.values() if row["status"] == "failed"]
    assert len(failed) <= CLIENTS
    assert all(row["output_tokens"] <= 14 for row in failed)


async def test_a_killed_door_loses_nothing_that_was_told(own: Running) -> None:
    async with load(own, CLIENTS, leaving=True) as seen:
        await seen.more(20)
        _kill(own, "tokenworks.server.door")
        await seen.more(40)
    rows = await usage_rows(own, seen)
    check_rows(rows, seen)
    interrupted = [row for row in rows.values() if row["status"] == "interrupted"]
    assert len(interrupted) <= CLIENTS
    assert all(0 <= row["output_tokens"] <= 14 for row in interrupted)


async def test_everything_killed_comes_back_at_the_next_up(own: Running) -> None:
    assert own.process is not None
    async with load(own, CLIENTS, leaving=True) as seen:
        await seen.more(20)
        children = [child_pid(own.process.pid, f"tokenworks.server.{name}") for name in ("control", "door", "replica")]
        own.kill()
        async with asyncio.timeout(10):
            while any(os.path.exists(f"/proc/{pid}") for pid in children):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(own.start)
        await seen.more(20)
    check_rows(await usage_rows(own, seen), seen)


async def test_a_clean_stop_finishes_what_runs(own: Running) -> None:
    async with load(own, CLIENTS) as seen:
        await seen.more(10)
        before = len(seen.ended)
        stopping = asyncio.create_task(asyncio.to_thread(own.stop))
        await asyncio.sleep(0)
        assert await stopping == 0
        assert len(seen.ended) > before
    cut = [error for error in seen.errors if "incomplete" in str(error).lower() or "peer closed" in str(error).lower()]
    assert cut == []
    await asyncio.to_thread(own.start)
    rows = await usage_rows(own, seen)
    check_rows(rows, seen)
    assert not [row for row in rows.values() if row["status"] == "interrupted"]
