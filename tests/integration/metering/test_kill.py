"""kill -9 at random moments: everything that was called durable is there, and every request closes exactly once."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.metering.conftest import OpenJournal
from tests.integration.metering.test_disk_journal import read_all
from tokenworks.metering.model import Closed, Counts, Opened, Progress, Record, Status

ROOT = Path(__file__).parents[3]


def run_until_killed(folder: Path, name: str, lines: int) -> list[tuple[str, str]]:
    """Start a writer, kill it after about that many lines, return all complete ones."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.metering.killed_writer", str(folder), name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    assert writer.stdout is not None
    with writer.stdout as out:
        said = [out.readline() for _ in range(lines)]
        writer.kill()
        said += out.readlines()
    writer.wait()
    return [(word, request_id) for word, request_id in (line.split() for line in said if line.endswith("\n"))]


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_durable_is_lost_and_nothing_closes_twice(
    open_journal: OpenJournal, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "door-0"
    said: list[tuple[str, str]] = []
    for life in range(3):  # each life recovers what the one before left
        said += run_until_killed(folder, f"life{life}", chance.randrange(1, 900))
    journal = await open_journal(folder)
    records = await read_all(journal)
    assert await journal.count_unreadable() == 0
    there = {(word_of(record), record.request_id) for record in records}
    assert set(said) <= there
    opened = [record.request_id for record in records if isinstance(record, Opened)]
    closed = {record.request_id: record for record in records if isinstance(record, Closed)}
    assert len(opened) == len(set(opened)) == len(closed)
    assert len(closed) == sum(isinstance(record, Closed) for record in records), "each closes once"
    for word, request_id in said:
        kept = closed[request_id]
        if word == "closed":
            assert (kept.status, kept.counts) == (Status.COMPLETED, Counts(10, 4, 20))
        if word == "progress":
            assert kept.counts.output_tokens >= 3
    assert any(record.status is Status.INTERRUPTED for record in closed.values())


def word_of(record: Record) -> str:
    return "opened" if isinstance(record, Opened) else "progress" if isinstance(record, Progress) else "closed"
