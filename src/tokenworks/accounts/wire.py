"""What `/admin/v1` says about organizations, projects and keys; `client` executes the calls."""

import msgspec

from tokenworks.accounts.model import DEFAULT_NAME, Scope
from tokenworks.client.call import Call


class OrganizationCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make an organization."""

    name: str


class OrganizationRow(msgspec.Struct, frozen=True):
    """An organization."""

    name: str
    created_at_ms: int


class OrganizationList(msgspec.Struct, frozen=True):
    """All organizations, by name."""

    data: list[OrganizationRow]


class ProjectCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a project."""

    name: str
    organization: str = DEFAULT_NAME


class ProjectsWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which projects to list; without an organization all."""

    organization: str | None = None


class ProjectRow(msgspec.Struct, frozen=True):
    """A project."""

    organization: str
    name: str
    created_at_ms: int


class ProjectList(msgspec.Struct, frozen=True):
    """Projects, by organization and name."""

    data: list[ProjectRow]


class KeyCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Make a key."""

    organization: str = DEFAULT_NAME
    project: str = DEFAULT_NAME
    scopes: tuple[str, ...] = (Scope.INFERENCE.value, Scope.HUB_READ.value, Scope.HUB_WRITE.value)
    expires_at_ms: int | None = None


class KeysWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which keys to list; without a filter all."""

    organization: str | None = None
    project: str | None = None


class KeyNamed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key, by its id."""

    key_id: str


class KeyRow(msgspec.Struct, frozen=True):
    """A key without its text."""

    id: str
    organization: str
    project: str
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class KeyCreated(msgspec.Struct, frozen=True):
    """A new key with its text, which is shown this once."""

    id: str
    key: str
    organization: str
    project: str
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None


class KeyList(msgspec.Struct, frozen=True):
    """Keys, oldest first, revoked and expired ones too."""

    data: list[KeyRow]


ORGANIZATIONS_LIST: Call[None, OrganizationList] = Call("GET", "/admin/v1/organizations", None, OrganizationList)
ORGANIZATIONS_CREATE = Call("POST", "/admin/v1/organizations", OrganizationCreate, OrganizationRow)
PROJECTS_LIST = Call("GET", "/admin/v1/projects", ProjectsWanted, ProjectList)
PROJECTS_CREATE = Call("POST", "/admin/v1/projects", ProjectCreate, ProjectRow)
KEYS_LIST = Call("GET", "/admin/v1/keys", KeysWanted, KeyList)
KEYS_CREATE = Call("POST", "/admin/v1/keys", KeyCreate, KeyCreated)
KEYS_REVOKE = Call("DELETE", "/admin/v1/keys/{key_id}", KeyNamed, KeyRow)
