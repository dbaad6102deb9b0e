"""The database: one writer, whole transactions, and sentences instead of codes. On real SQLite files."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from tokenworks.kit import db
from tokenworks.kit.db import Database, sqlite_url
from tokenworks.kit.errors import StorageFullError, UnavailableError


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(sqlite_url(tmp_path / "plain 100% a?b.db"))
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield database
    await database.close()


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM t"))).scalar_one())


async def insert(database: Database, number: int) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})


async def test_a_write_is_kept_durably(plain: Database) -> None:
    await insert(plain, 1)
    assert await count(plain) == 1
    async with plain.write() as connection:
        pragmas = {
            name: (await connection.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_an_error_undoes_the_whole_block(plain: Database) -> None:
    async def fail_in_the_middle() -> None:
        async with plain.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            raise KeyError

    with pytest.raises(KeyError):
        await fail_in_the_middle()
    assert await count(plain) == 0
    await insert(plain, 1)
    with pytest.raises(IntegrityError):
        await insert(plain, 1)
    assert await count(plain) == 1


async def test_a_reader_cannot_write(plain: Database) -> None:
    with pytest.raises(UnavailableError, match="read-only"):
        async with plain.read() as connection:
            await connection.execute(text("INSERT INTO t VALUES (1)"))
    assert await count(plain) == 0


async def test_a_reader_sees_one_moment_while_others_write(plain: Database) -> None:
    async with plain.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
        await insert(plain, 1)
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
    assert await count(plain) == 1


async def test_writers_wait_for_each_other(plain: Database) -> None:
    async def add_one() -> None:
        async with plain.write() as connection:
            most = (await connection.execute(text("SELECT coalesce(max(n), 0) FROM t"))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": most + 1})

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(add_one())
    assert await count(plain) == 30


async def test_a_write_inside_a_write_is_a_bug(plain: Database) -> None:
    async with plain.write():
        with pytest.raises(AssertionError):
            async with plain.write():
                pass


async def test_a_cancelled_writer_leaves_nothing_and_blocks_nobody(plain: Database) -> None:
    begun = asyncio.Event()

    async def write_for_ever() -> None:
        async with plain.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_for_ever())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await insert(plain, 2)
    assert await count(plain) == 1


async def test_a_commit_that_was_begun_is_finished() -> None:
    begun, release, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def commit() -> None:
        begun.set()
        await release.wait()
        done.set()

    task = asyncio.create_task(db._to_the_end(commit()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_a_full_disk_is_said_and_leaves_the_database_well(plain: Database) -> None:
    async with plain.write() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    async def insert_many() -> None:
        async with plain.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": number} for number in range(5000)])

    with pytest.raises(StorageFullError, match="disk is full"):
        await insert_many()
    assert await count(plain) == 0
    await insert(plain, 1)


async def test_a_locked_database_is_said(plain: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_BUSY_WAIT_MS", 10)
    path = tmp_path / "locked.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("BEGIN IMMEDIATE")
    database = Database(sqlite_url(path))
    with pytest.raises(UnavailableError, match="locked by another program"):
        await insert(database, 1)
    other.close()
    await database.close()


async def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(b"this is no database at all" * 100)
    database = Database(sqlite_url(path))
    with pytest.raises(UnavailableError, match=r"damaged.db is damaged; restore it from a backup"):
        await insert(database, 1)
    await database.close()


async def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "none" / "x.db"))
    with pytest.raises(UnavailableError, match="cannot open the database"):
        await insert(database, 1)
    await database.close()


async def test_a_read_only_folder_is_said(read_only_folder: Path) -> None:
    database = Database(sqlite_url(read_only_folder / "x.db"))
    with pytest.raises(UnavailableError, match="not writable"):
        await insert(database, 1)
    await database.close()


async def test_long_reports_hold_up_no_other_reader(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_CONNECTION_WAIT_S", 0.05)
    reports = plain.for_reports()
    assert reports is plain.for_reports()
    begun = asyncio.Semaphore(0)
    end = asyncio.Event()

    async def report() -> None:
        async with reports.read():
            begun.release()
            await end.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(report())
            await begun.acquire()
        async with asyncio.timeout(1):
            assert await count(plain) == 0
        with pytest.raises(UnavailableError, match="2 others read from the database and take long; try again later"):
            await count(reports)
        end.set()
    assert await count(reports) == 0


async def test_a_wrong_statement_is_a_bug(plain: Database) -> None:
    with pytest.raises(OperationalError):
        async with plain.read() as connection:
            await connection.execute(text("SELECT * FROM nothing"))
