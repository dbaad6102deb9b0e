"""Routes of accounts: `/admin/v1/organizations`, `/admin/v1/projects`, `/admin/v1/keys`. They need `admin`."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from tokenworks.accounts import policy, wire
from tokenworks.accounts.model import ApiKey, KeyRequest, Organization, Project, Scope
from tokenworks.accounts.service import Accounts
from tokenworks.client.call import Call
from tokenworks.kit.asgi import read_query, read_request, reply
from tokenworks.kit.db import Database


def make_router(accounts: Accounts, database: Database, changed: Callable[[], None]) -> APIRouter:
    """The routes. `changed` is called after a commit that doors must hear of."""
    routes = _Routes(accounts, database, changed)
    router = APIRouter(tags=["accounts"])
    endpoints = (
        (wire.ORGANIZATIONS_LIST, routes.list_organizations, 200),
        (wire.ORGANIZATIONS_CREATE, routes.create_organization, 201),
        (wire.PROJECTS_LIST, routes.list_projects, 200),
        (wire.PROJECTS_CREATE, routes.create_project, 201),
        (wire.KEYS_LIST, routes.list_keys, 200),
        (wire.KEYS_CREATE, routes.create_key, 201),
        (wire.KEYS_REVOKE, routes.revoke_key, 200),
    )
    for call, endpoint, status in endpoints:
        assert isinstance(call, Call)
        router.add_api_route(call.path, endpoint, methods=[call.method], status_code=status)
    return router


class _Routes:
    def __init__(self, accounts: Accounts, database: Database, changed: Callable[[], None]) -> None:
        self._accounts = accounts
        self._database = database
        self._changed = changed

    async def list_organizations(self, request: Request) -> Response:
        """All organizations."""
        await self._check_admin(request)
        async with self._database.read() as connection:
            found = await self._accounts.list_organizations(connection)
        return reply(wire.OrganizationList([_organization_row(organization) for organization in found]))

    async def create_organization(self, request: Request) -> Response:
        """Make an organization, with a project `default`."""
        await self._check_admin(request)
        wanted = await read_request(request, wire.OrganizationCreate)
        async with self._database.write() as connection:
            organization = await self._accounts.create_organization(connection, wanted.name)
        return reply(_organization_row(organization), 201)

    async def list_projects(self, request: Request) -> Response:
        """Projects of one organization, or all."""
        await self._check_admin(request)
        wanted = read_query(request, wire.ProjectsWanted)
        async with self._database.read() as connection:
            found = await self._accounts.list_projects(connection, wanted.organization)
        return reply(wire.ProjectList([_project_row(project) for project in found]))

    async def create_project(self, request: Request) -> Response:
        """Make a project."""
        await self._check_admin(request)
        wanted = await read_request(request, wire.ProjectCreate)
        async with self._database.write() as connection:
            project = await self._accounts.create_project(connection, wanted.organization, wanted.name)
        return reply(_project_row(project), 201)

    async def list_keys(self, request: Request) -> Response:
        """Keys of an organization or project, or all; never their texts."""
        await self._check_admin(request)
        wanted = read_query(request, wire.KeysWanted)
        async with self._database.read() as connection:
            found = await self._accounts.list_keys(connection, wanted.organization, wanted.project)
        return reply(wire.KeyList([_key_row(key) for key in found]))

    async def create_key(self, request: Request) -> Response:
        """Make a key; its text is in this answer and nowhere else."""
        await self._check_admin(request)
        wanted = await read_request(request, wire.KeyCreate)
        asked = KeyRequest(
            wanted.organization, wanted.project, policy.parse_scopes(wanted.scopes), wanted.expires_at_ms
        )
        async with self._database.write() as connection:
            key, text = await self._accounts.create_key(connection, asked)
        self._changed()
        created = wire.KeyCreated(
            id=key.key_id,
            key=text,
            organization=key.organization,
            project=key.project,
            scopes=key.scopes,
            created_at_ms=key.created_at_ms,
            expires_at_ms=key.expires_at_ms,
        )
        return reply(created, 201)

    async def revoke_key(self, request: Request) -> Response:
        """Revoke a key; running answers finish, new ones are refused."""
        await self._check_admin(request)
        wanted = read_query(request, wire.KeyNamed)
        async with self._database.write() as connection:
            key = await self._accounts.revoke_key(connection, wanted.key_id)
        self._changed()
        return reply(_key_row(key))

    async def _check_admin(self, request: Request) -> ApiKey:
        # A transaction of its own, before the body is read: a stranger must not make control wait for a body.
        async with self._database.read() as connection:
            return await self._accounts.authenticate(connection, request.headers.get("authorization"), Scope.ADMIN)


def _organization_row(organization: Organization) -> wire.OrganizationRow:
    return wire.OrganizationRow(organization.name, organization.created_at_ms)


def _project_row(project: Project) -> wire.ProjectRow:
    return wire.ProjectRow(project.organization, project.name, project.created_at_ms)


def _key_row(key: ApiKey) -> wire.KeyRow:
    return wire.KeyRow(
        id=key.key_id,
        organization=key.organization,
        project=key.project,
        scopes=key.scopes,
        created_at_ms=key.created_at_ms,
        expires_at_ms=key.expires_at_ms,
        revoked_at_ms=key.revoked_at_ms,
    )
