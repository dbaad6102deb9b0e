"""Accounts on a real database: the first start, keys, and what a crash leaves."""

import stat
from pathlib import Path

import pytest

from tokenworks.accounts.adapters.key_file import DiskKeyFile
from tokenworks.accounts.model import KeyRequest, Scope
from tokenworks.accounts.policy import hash_key
from tokenworks.accounts.service import Accounts
from tokenworks.kit.db import Database
from tokenworks.kit.errors import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from tokenworks.kit.ids import RandomIds, make_secret


class ManualClock:
    """Time stands until it is told to move."""

    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def accounts(clock: ManualClock) -> Accounts:
    return Accounts(clock, RandomIds(), make_secret)


@pytest.fixture
def key_file(tmp_path: Path) -> DiskKeyFile:
    return DiskKeyFile(tmp_path / "admin.key")


async def ensure(accounts: Accounts, database: Database, key_file: DiskKeyFile) -> str | None:
    async with database.write() as connection:
        return await accounts.ensure_defaults(connection, key_file)


async def scopes_of(accounts: Accounts, database: Database, text: str | None) -> tuple[Scope, ...]:
    async with database.read() as connection:
        return (await accounts.authenticate(connection, f"Bearer {text}")).scopes


async def test_the_first_start_makes_an_administrator(
    accounts: Accounts, database: Database, key_file: DiskKeyFile, tmp_path: Path
) -> None:
    assert await ensure(accounts, database, key_file) is None
    text = key_file.read()
    assert text is not None
    assert (tmp_path / "admin.key").read_text() == text + "\n"
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    assert await scopes_of(accounts, database, text) == tuple(Scope)
    async with database.read() as connection:
        assert [each.name for each in await accounts.list_organizations(connection)] == ["default"]
        assert [each.name for each in await accounts.list_projects(connection, "default")] == ["default"]
        (key,) = await accounts.list_keys(connection)
    assert key.key_sha256 == hash_key(text)
    assert text not in (tmp_path / "tokenworks.db").read_bytes().decode("latin-1")


async def test_the_second_start_changes_nothing(accounts: Accounts, database: Database, key_file: DiskKeyFile) -> None:
    await ensure(accounts, database, key_file)
    text = key_file.read()
    assert await ensure(accounts, database, key_file) is None
    assert key_file.read() == text
    async with database.read() as connection:
        assert len(await accounts.list_keys(connection)) == 1


async def test_a_crash_between_file_and_row_leaves_a_key_that_works_after_the_next_start(
    accounts: Accounts, database: Database, key_file: DiskKeyFile
) -> None:
    async def crash_before_the_commit() -> None:
        async with database.write() as connection:
            await accounts.ensure_defaults(connection, key_file)
            raise KeyError

    with pytest.raises(KeyError):
        await crash_before_the_commit()
    text = key_file.read()
    assert text is not None
    with pytest.raises(AuthenticationError):
        await scopes_of(accounts, database, text)
    assert await ensure(accounts, database, key_file) is None
    assert key_file.read() == text
    assert await scopes_of(accounts, database, text) == tuple(Scope)


async def test_a_lost_file_is_said_and_an_empty_one_brings_a_new_key(
    accounts: Accounts, database: Database, key_file: DiskKeyFile, tmp_path: Path
) -> None:
    await ensure(accounts, database, key_file)
    old = key_file.read()
    (tmp_path / "admin.key").unlink()
    said = await ensure(accounts, database, key_file)
    assert said is not None
    assert f"create an empty file {tmp_path / 'admin.key'} and start again" in said
    assert key_file.read() is None
    (tmp_path / "admin.key").touch()
    assert await ensure(accounts, database, key_file) is None
    assert key_file.read() != old
    assert await scopes_of(accounts, database, key_file.read()) == tuple(Scope)


async def test_a_file_with_something_else_is_said(
    accounts: Accounts, database: Database, key_file: DiskKeyFile, tmp_path: Path
) -> None:
    (tmp_path / "admin.key").write_bytes(b"\xff not a key")
    said = await ensure(accounts, database, key_file)
    assert said is not None
    assert "does not hold an API key" in said


async def test_a_revoked_key_in_the_file_is_said(accounts: Accounts, database: Database, key_file: DiskKeyFile) -> None:
    await ensure(accounts, database, key_file)
    async with database.write() as connection:
        (first,) = await accounts.list_keys(connection)
        await accounts.create_key(connection, KeyRequest("default", scopes=(Scope.ADMIN,)))
        await accounts.revoke_key(connection, first.key_id)
    said = await ensure(accounts, database, key_file)
    assert said is not None
    assert "cannot administer any more" in said


async def test_a_folder_in_place_of_the_file_is_said(
    accounts: Accounts, database: Database, key_file: DiskKeyFile, tmp_path: Path
) -> None:
    (tmp_path / "admin.key").mkdir()
    with pytest.raises(UnavailableError, match=r"admin\.key"):
        await ensure(accounts, database, key_file)


async def test_organizations_and_projects(accounts: Accounts, database: Database) -> None:
    async with database.write() as connection:
        assert (await accounts.create_organization(connection, "team")).created_at_ms == 1_000
        await accounts.create_project(connection, "team", "blue")
        assert [each.name for each in await accounts.list_projects(connection, "team")] == ["blue", "default"]
        assert len(await accounts.list_projects(connection)) == 2
        with pytest.raises(ConflictError, match="exists already"):
            await accounts.create_organization(connection, "team")
        with pytest.raises(ConflictError, match="exists already"):
            await accounts.create_project(connection, "team", "blue")
        with pytest.raises(InvalidRequestError):
            await accounts.create_organization(connection, "v1")
        with pytest.raises(NotFoundError, match="tokenworks orgs create"):
            await accounts.create_project(connection, "nobody", "blue")
        with pytest.raises(NotFoundError):
            await accounts.list_projects(connection, "nobody")


async def test_keys(accounts: Accounts, database: Database, clock: ManualClock) -> None:
    async with database.write() as connection:
        await accounts.create_organization(connection, "team")
        key, text = await accounts.create_key(connection, KeyRequest("team", expires_at_ms=2_000))
        assert key.scopes == (Scope.INFERENCE, Scope.HUB_READ, Scope.HUB_WRITE)
        assert await accounts.authenticate(connection, f"Bearer {text}", Scope.INFERENCE) == key
        with pytest.raises(PermissionDeniedError):
            await accounts.authenticate(connection, f"Bearer {text}", Scope.ADMIN)
        clock.ms = 2_000
        with pytest.raises(AuthenticationError, match="expired"):
            await accounts.authenticate(connection, f"Bearer {text}")
        assert await accounts.list_keys(connection, "team", "default") == [key]
        assert await accounts.list_keys(connection, "team", "other") == []
        for wanted in (KeyRequest("nobody"), KeyRequest("team", "nothing")):
            with pytest.raises(NotFoundError):
                await accounts.create_key(connection, wanted)


async def test_revoking_is_for_ever_and_may_be_repeated(
    accounts: Accounts, database: Database, clock: ManualClock
) -> None:
    async with database.write() as connection:
        await accounts.create_organization(connection, "team")
        key, text = await accounts.create_key(connection, KeyRequest("team"))
        assert (await accounts.revoke_key(connection, key.key_id)).revoked_at_ms == 1_000
        clock.ms = 5_000
        assert (await accounts.revoke_key(connection, key.key_id)).revoked_at_ms == 1_000
        with pytest.raises(AuthenticationError, match="revoked"):
            await accounts.authenticate(connection, f"Bearer {text}")
        with pytest.raises(NotFoundError):
            await accounts.revoke_key(connection, "key_none")


async def test_the_last_administrator_stays(accounts: Accounts, database: Database, key_file: DiskKeyFile) -> None:
    await ensure(accounts, database, key_file)
    async with database.write() as connection:
        (key,) = await accounts.list_keys(connection)
        with pytest.raises(ConflictError) as caught:
            await accounts.revoke_key(connection, key.key_id)
        assert caught.value.code == "last_admin_key"
