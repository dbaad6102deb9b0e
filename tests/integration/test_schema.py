"""Migrations: what they make is what the code declares, on a database that is empty, current, or from the future."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from tokenworks.kit.db import Database, sqlite_url
from tokenworks.kit.errors import StartError
from tokenworks.server.schema import metadata, migrate


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


def checks(connection: Connection) -> dict[str, set[str | None]]:
    # compare_metadata does not look at CHECK constraints.
    inspector = inspect(connection)
    return {name: {each["name"] for each in inspector.get_check_constraints(name)} for name in metadata.tables}


async def test_the_migrated_schema_is_the_declared_one(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
        found = await connection.run_sync(checks)
    async with database.write() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
        assert await connection.run_sync(checks) == found


async def test_migrating_again_changes_nothing(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO organizations VALUES ('team', 1)"))
    await migrate(database)
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT name FROM organizations"))).scalar_one() == "team"


async def test_two_that_migrate_at_once(tmp_path: Path) -> None:
    databases = [Database(sqlite_url(tmp_path / "raced.db")) for _ in range(3)]
    await asyncio.gather(*(migrate(each) for each in databases))
    async with databases[0].read() as connection:
        assert await connection.run_sync(differences) == []
    for each in databases:
        await each.close()


async def test_a_database_from_the_future_is_said(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartError, match=r"belongs to another version of tokenworks.*9999"):
        await migrate(database)


async def test_a_database_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all " * 200)
    database = Database(sqlite_url(tmp_path / "x.db"))
    with pytest.raises(StartError, match="damaged"):
        await migrate(database)
    await database.close()
