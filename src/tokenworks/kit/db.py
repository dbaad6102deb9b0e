"""The database: one writer at a time, many readers, and errors that a person can read.

Tables of all slices register themselves on `metadata`. Only control opens a `Database`. Invariants: writes of this
process run one after the other, each in one transaction that takes SQLite's write lock at its beginning
(`BEGIN IMMEDIATE`), so that what it read is still true when it writes; a write that returned is on stable storage
(WAL, `synchronous=FULL`); a reader sees one consistent state and cannot write. Keep SQL portable to PostgreSQL.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, MetaData, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tokenworks.kit.errors import StorageFullError, UnavailableError

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of every slice. Constraints get stable names, so that migrations can name them on any database."""

_BUSY_WAIT_MS = 5_000
_READERS_MAX = 4
_REPORT_READERS_MAX = 2
_CONNECTION_WAIT_S = 30.0
_WAL_TRIES = 10


class Database:
    """Connections to one database. Use one per process and close it in the end."""

    def __init__(self, url: str | URL, *, readers_max: int = _READERS_MAX) -> None:
        self._url = make_url(url)
        self._readers_max = readers_max
        self._reports: Database | None = None
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._writer = self._make_engine(is_writer=True)
        self._reader = self._make_engine(is_writer=False)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that may write: committed at the end of the block, undone if it raises.

        Raises:
            StorageFullError: the disk has no room.
            UnavailableError: the database is read-only, damaged, or locked by another program.
        """
        task = asyncio.current_task()
        assert self._owner is None or self._owner is not task, "a write transaction inside a write transaction"
        async with self._lock:
            self._owner = task
            try:
                async with self._transaction(self._writer) as connection:
                    yield connection
                    await _to_the_end(connection.commit())
            finally:
                self._owner = None

    def for_reports(self) -> "Database":
        """The same database, to read what may take long: few at a time, and never in the way of any other reader.

        It is closed with this one.
        """
        if self._reports is None:
            self._reports = Database(self._url, readers_max=_REPORT_READERS_MAX)
        return self._reports

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that only reads, all of it at one moment.

        Raises:
            UnavailableError: as `write`, or every connection is busy.
        """
        async with self._transaction(self._reader) as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        if self._reports is not None:
            await self._reports.close()
        await self._reader.dispose()
        await self._writer.dispose()

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _make_engine(self, *, is_writer: bool) -> AsyncEngine:
        size = 1 if is_writer else self._readers_max
        engine = create_async_engine(self._url, pool_size=size, max_overflow=0, pool_timeout=_CONNECTION_WAIT_S)
        if self._is_sqlite:
            _set_up_sqlite(engine, is_writer=is_writer)
        return engine

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            # Leaving the connection rolls back what was not committed.
            async with engine.connect() as connection:
                _ = await connection.begin()
                yield connection
        except PoolTimeoutError as error:
            raise UnavailableError(
                f"{self._readers_max} others read from the database and take long; try again later"
            ) from error
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise _translate(error, self._url) from error


def sqlite_url(path: Path) -> URL:
    """The URL of an SQLite file; any character may stand in its path."""
    return URL.create("sqlite+aiosqlite", database=str(path))


def _set_up_sqlite(engine: AsyncEngine, *, is_writer: bool) -> None:
    @event.listens_for(engine.sync_engine, "do_connect")
    def try_file(_dialect: object, _record: object, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        # A failure inside aiosqlite leaves its thread running for a moment, which then meets a closed event loop.
        sqlite3.connect(*arguments, **options).close()

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        # No implicit BEGIN by the driver: the listener below begins, in the mode that is wanted.
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_WAIT_MS}")
            if is_writer:
                _set_wal(cursor)
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            if not is_writer:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()
        except BaseException:
            # The pool does not know this connection yet.
            connection.close()
            raise

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def _set_wal(cursor: Any) -> None:
    """Switch the file to WAL, where it stays. Of several that switch at once all but one are refused at once."""
    for _ in range(_WAL_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        else:
            return
        # Taking the write lock does wait, for the one that switches.
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("ROLLBACK")
    cursor.execute("PRAGMA journal_mode=WAL")


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` even if this task is cancelled meanwhile: a commit that was begun is finished, then it is raised."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        raise


def _translate(error: DBAPIError, url: URL) -> Exception:
    place = url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
    code = getattr(error.orig, "sqlite_errorcode", None)
    # The low byte is the primary code; the rest tells details. Source: https://sqlite.org/rescode.html
    match code & 0xFF if isinstance(code, int) else None:
        case sqlite3.SQLITE_FULL:
            return StorageFullError(f"the disk is full: cannot write the database {place}; free some room")
        case sqlite3.SQLITE_READONLY:
            return UnavailableError(f"the database {place} is read-only; make it and its folder writable")
        case sqlite3.SQLITE_CANTOPEN:
            return UnavailableError(f"cannot open the database {place}: its folder is missing or not writable")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return UnavailableError(f"the database {place} is damaged; restore it from a backup")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError(f"the database {place} is locked by another program; stop that one and try again")
        case sqlite3.SQLITE_IOERR:
            return UnavailableError(f"the disk failed at the database {place}: {error.orig}")
    if error.connection_invalidated:
        return UnavailableError(f"the connection to the database {place} was lost; try again")
    return error
