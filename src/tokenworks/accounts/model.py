"""Organizations, projects and API keys.

Invariants: a project belongs to one organization, a key to one project; a key's text is never stored, only its
SHA-256; a key is never deleted, only revoked, so that whoever used it can always be named.
"""

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_NAME = "default"
"""The organization, and in it the project, that exist from the first start."""


class Scope(StrEnum):
    """What a key may do."""

    ADMIN = "admin"
    """Everything, for every organization."""
    INFERENCE = "inference"
    HUB_READ = "hub:read"
    HUB_WRITE = "hub:write"


@dataclass(frozen=True, slots=True)
class Organization:
    """Who pays. Its name is also its namespace in the hub."""

    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Project:
    """A part of an organization's use that is counted apart."""

    organization: str
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored."""

    key_id: str
    key_sha256: str
    organization: str
    project: str
    scopes: tuple[Scope, ...]
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None

    @property
    def is_revoked(self) -> bool:
        """True for ever once somebody revoked it."""
        return self.revoked_at_ms is not None


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The key that somebody asks for."""

    organization: str
    project: str = DEFAULT_NAME
    scopes: tuple[Scope, ...] = (Scope.INFERENCE, Scope.HUB_READ, Scope.HUB_WRITE)
    expires_at_ms: int | None = None
