"""Use cases of accounts. Each method works inside the transaction that it is given and never commits."""

from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.accounts import policy, store
from tokenworks.accounts.model import DEFAULT_NAME, ApiKey, KeyRequest, Organization, Project, Scope
from tokenworks.accounts.ports import KeyFile, MakeSecret
from tokenworks.kit.clock import Clock
from tokenworks.kit.errors import ConflictError, NotFoundError
from tokenworks.kit.ids import Ids


class Accounts:
    """Organizations, projects and keys."""

    def __init__(self, clock: Clock, ids: Ids, make_secret: MakeSecret) -> None:
        self._clock = clock
        self._ids = ids
        self._make_secret = make_secret

    async def ensure_defaults(self, connection: AsyncConnection, key_file: KeyFile) -> str | None:
        """Make what must exist: organization and project `default`, and an administrator's key in its file.

        The file is durable before the row is: a crash in between leaves a key that the next start takes over.

        Returns:
            A sentence for the log where the administrator should know something, or None.
        """
        if await store.find_organization(connection, DEFAULT_NAME) is None:
            await store.add_organization(connection, Organization(DEFAULT_NAME, self._clock.now_ms()))
        if await store.find_project(connection, DEFAULT_NAME, DEFAULT_NAME) is None:
            await store.add_project(connection, Project(DEFAULT_NAME, DEFAULT_NAME, self._clock.now_ms()))
        return await self._ensure_admin_key(connection, key_file)

    async def create_organization(self, connection: AsyncConnection, name: str) -> Organization:
        """Make an organization with a project `default`.

        Raises:
            InvalidRequestError: the name cannot be one.
            ConflictError: it exists.
        """
        policy.check_name(name, "name")
        if await store.find_organization(connection, name) is not None:
            raise ConflictError(f"the organization {name!r} exists already", param="name")
        organization = Organization(name, self._clock.now_ms())
        await store.add_organization(connection, organization)
        await store.add_project(connection, Project(name, DEFAULT_NAME, organization.created_at_ms))
        return organization

    async def list_organizations(self, connection: AsyncConnection) -> list[Organization]:
        """All organizations, by name."""
        return await store.list_organizations(connection)

    async def create_project(self, connection: AsyncConnection, organization: str, name: str) -> Project:
        """Make a project.

        Raises:
            InvalidRequestError: the name cannot be one.
            NotFoundError: there is no such organization.
            ConflictError: it exists.
        """
        policy.check_name(name, "name")
        await self._check_organization(connection, organization)
        if await store.find_project(connection, organization, name) is not None:
            raise ConflictError(f"the project {name!r} of {organization!r} exists already", param="name")
        project = Project(organization, name, self._clock.now_ms())
        await store.add_project(connection, project)
        return project

    async def list_projects(self, connection: AsyncConnection, organization: str | None = None) -> list[Project]:
        """All projects, or those of one organization.

        Raises:
            NotFoundError: there is no such organization.
        """
        if organization is not None:
            await self._check_organization(connection, organization)
        return await store.list_projects(connection, organization)

    async def create_key(self, connection: AsyncConnection, wanted: KeyRequest) -> tuple[ApiKey, str]:
        """Make a key; its text is returned this once and kept nowhere.

        Raises:
            InvalidRequestError: scopes or expiry cannot be.
            NotFoundError: there is no such organization or project.
        """
        policy.check_key_request(wanted, self._clock.now_ms())
        await self._check_organization(connection, wanted.organization)
        if await store.find_project(connection, wanted.organization, wanted.project) is None:
            raise NotFoundError(
                f"the organization {wanted.organization!r} has no project {wanted.project[:80]!r}", param="project"
            )
        text = policy.make_key(self._make_secret())
        return await self._add_key(connection, wanted, text), text

    async def list_keys(
        self, connection: AsyncConnection, organization: str | None = None, project: str | None = None
    ) -> list[ApiKey]:
        """All keys, revoked and expired ones too, oldest first."""
        return await store.list_keys(connection, organization, project)

    async def revoke_key(self, connection: AsyncConnection, key_id: str) -> ApiKey:
        """Revoke a key for ever; a second time changes nothing.

        Raises:
            NotFoundError: there is no such key.
            ConflictError: it is the last one that can administer.
        """
        key = await store.find_key(connection, key_id)
        if key is None:
            raise NotFoundError(f"there is no key {key_id[:80]!r}", param="key_id")
        if key.is_revoked:
            return key
        now_ms = self._clock.now_ms()
        policy.check_may_revoke(key, await store.list_keys(connection, DEFAULT_NAME), now_ms)
        await store.set_revoked(connection, key_id, now_ms)
        revoked = await store.find_key(connection, key_id)
        assert revoked is not None, key_id
        return revoked

    async def authenticate(
        self, connection: AsyncConnection, authorization: str | None, scope: Scope | None = None
    ) -> ApiKey:
        """The key of an `Authorization` header, if it can be used now and has `scope`.

        Raises:
            AuthenticationError: no key, or an unknown, revoked or expired one.
            PermissionDeniedError: it lacks the scope.
        """
        text = policy.parse_authorization(authorization)
        key = policy.check_good(await store.find_key_by_hash(connection, policy.hash_key(text)), self._clock.now_ms())
        return key if scope is None else policy.check_scope(key, scope)

    async def _check_organization(self, connection: AsyncConnection, name: str) -> None:
        if await store.find_organization(connection, name) is None:
            raise NotFoundError(
                f"there is no organization {name[:80]!r}; 'tokenworks orgs create' makes one", param="organization"
            )

    async def _add_key(self, connection: AsyncConnection, wanted: KeyRequest, text: str) -> ApiKey:
        key = ApiKey(
            key_id=self._ids.new("key"),
            key_sha256=policy.hash_key(text),
            organization=wanted.organization,
            project=wanted.project,
            scopes=wanted.scopes,
            created_at_ms=self._clock.now_ms(),
            expires_at_ms=wanted.expires_at_ms,
        )
        await store.add_key(connection, key)
        return key

    async def _ensure_admin_key(self, connection: AsyncConnection, key_file: KeyFile) -> str | None:
        now_ms = self._clock.now_ms()
        has_admin = any(policy.is_admin(key, now_ms) for key in await store.list_keys(connection, DEFAULT_NAME))
        text = key_file.read()
        again = f"to have a new one made, create an empty file {key_file.place} and start again"
        if text is None and has_admin:
            return f"the file {key_file.place} is gone; if its key is lost, too: {again}"
        if text and not policy.is_key(text):
            return f"the file {key_file.place} does not hold an API key; {again}"
        if text:
            key = await store.find_key_by_hash(connection, policy.hash_key(text))
            if key is not None:
                is_good = policy.is_admin(key, now_ms)
                return None if is_good else f"the key in {key_file.place} cannot administer any more; {again}"
        else:
            text = policy.make_key(self._make_secret())
            key_file.write(text)
        await self._add_key(connection, KeyRequest(DEFAULT_NAME, scopes=tuple(Scope)), text)
        return None
