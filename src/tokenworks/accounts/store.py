"""Tables and queries of accounts. Every function works inside the transaction that it is given."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Row,
    Select,
    String,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.accounts.model import ApiKey, Organization, Project, Scope
from tokenworks.kit.db import metadata

organizations = Table(
    "organizations",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("organization", String(64), ForeignKey("organizations.name"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("key_sha256", String(64), nullable=False, unique=True),
    Column("organization", String(64), nullable=False),
    Column("project", String(64), nullable=False),
    Column("scopes", String(255), nullable=False, comment="separated by spaces"),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    ForeignKeyConstraint(["organization", "project"], ["projects.organization", "projects.name"]),
)


async def find_organization(connection: AsyncConnection, name: str) -> Organization | None:
    """The organization of that name."""
    row = (await connection.execute(select(organizations).where(organizations.c.name == name))).one_or_none()
    return None if row is None else Organization(row.name, row.created_at_ms)


async def list_organizations(connection: AsyncConnection) -> list[Organization]:
    """All of them, by name."""
    rows = await connection.execute(select(organizations).order_by(organizations.c.name))
    return [Organization(row.name, row.created_at_ms) for row in rows]


async def add_organization(connection: AsyncConnection, organization: Organization) -> None:
    """Insert it."""
    await connection.execute(
        insert(organizations).values(name=organization.name, created_at_ms=organization.created_at_ms)
    )


async def find_project(connection: AsyncConnection, organization: str, name: str) -> Project | None:
    """The project of that name in the organization."""
    query = select(projects).where(projects.c.organization == organization, projects.c.name == name)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Project(row.organization, row.name, row.created_at_ms)


async def list_projects(connection: AsyncConnection, organization: str | None) -> list[Project]:
    """All of them, or those of one organization, by name."""
    query = select(projects).order_by(projects.c.organization, projects.c.name)
    if organization is not None:
        query = query.where(projects.c.organization == organization)
    return [Project(row.organization, row.name, row.created_at_ms) for row in await connection.execute(query)]


async def add_project(connection: AsyncConnection, project: Project) -> None:
    """Insert it."""
    await connection.execute(
        insert(projects).values(
            organization=project.organization, name=project.name, created_at_ms=project.created_at_ms
        )
    )


async def find_key(connection: AsyncConnection, key_id: str) -> ApiKey | None:
    """The key with that id."""
    return await _one_key(connection, select(api_keys).where(api_keys.c.key_id == key_id))


async def find_key_by_hash(connection: AsyncConnection, key_sha256: str) -> ApiKey | None:
    """The key whose text has that hash."""
    return await _one_key(connection, select(api_keys).where(api_keys.c.key_sha256 == key_sha256))


async def list_keys(
    connection: AsyncConnection, organization: str | None = None, project: str | None = None
) -> list[ApiKey]:
    """All of them, or those of one organization or project, oldest first."""
    query = select(api_keys).order_by(api_keys.c.created_at_ms, api_keys.c.key_id)
    if organization is not None:
        query = query.where(api_keys.c.organization == organization)
    if project is not None:
        query = query.where(api_keys.c.project == project)
    return [_to_key(row) for row in await connection.execute(query)]


async def add_key(connection: AsyncConnection, key: ApiKey) -> None:
    """Insert it."""
    await connection.execute(
        insert(api_keys).values(
            key_id=key.key_id,
            key_sha256=key.key_sha256,
            organization=key.organization,
            project=key.project,
            scopes=" ".join(key.scopes),
            created_at_ms=key.created_at_ms,
            expires_at_ms=key.expires_at_ms,
            revoked_at_ms=key.revoked_at_ms,
        )
    )


async def set_revoked(connection: AsyncConnection, key_id: str, revoked_at_ms: int) -> None:
    """Mark a key revoked; the first time stays."""
    await connection.execute(
        update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=revoked_at_ms)
    )


async def _one_key(connection: AsyncConnection, query: Select[tuple[object, ...]]) -> ApiKey | None:
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _to_key(row)


def _to_key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        key_sha256=row.key_sha256,
        organization=row.organization,
        project=row.project,
        scopes=tuple(Scope(name) for name in row.scopes.split()),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        revoked_at_ms=row.revoked_at_ms,
    )
