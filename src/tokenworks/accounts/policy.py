"""The rules of accounts: names, scopes, what a key looks like and when it is good. Pure."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from tokenworks.accounts.model import DEFAULT_NAME, ApiKey, KeyRequest, Scope
from tokenworks.kit.errors import AuthenticationError, ConflictError, InvalidRequestError, PermissionDeniedError

RESERVED_NAMES = frozenset({"v1", "admin", "api", "console", "docs", "xet", "metrics", "region", "healthz", "readyz"})
"""First segments of our own paths: an organization of that name could not be reached in the hub."""

KEY_PREFIX = "tw-"
KEY_SECRET_CHARS = 43
"""`kit.ids.make_secret()`: 256 bits."""

_TIME_MS_MAX = 253_402_300_799_999
"""The last moment that calendars of most programs know."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{{KEY_SECRET_CHARS}}}", re.ASCII)


def check_name(name: str, param: str) -> str:
    """Return the name of an organization or a project if it may be one.

    Raises:
        InvalidRequestError: it has other characters, is too long, or is reserved.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidRequestError(
            f"{param} {name[:80]!r} is not a name: use 1 to 64 lower-case letters, digits, '-', '.' and '_', "
            "with a letter or digit first and last",
            param=param,
            code="invalid_name",
        )
    if name in RESERVED_NAMES:
        raise InvalidRequestError(
            f"{param} {name!r} is reserved for tokenworks itself; choose another name",
            param=param,
            code="reserved_name",
        )
    return name


def parse_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """Return the scopes in their order of declaration, each once.

    Raises:
        InvalidRequestError: a name is no scope, or there is none.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(Scope))
    if unknown or not wanted:
        said = f"{unknown[0]!r} is not a scope" if unknown else "a key needs at least one scope"
        raise InvalidRequestError(f"{said}; choose from {', '.join(Scope)}", param="scopes", code="invalid_scope")
    return tuple(scope for scope in Scope if scope in wanted)


def make_key(secret: str) -> str:
    """The text of a key made from a secret of 256 bits."""
    text = KEY_PREFIX + secret
    assert is_key(text), "the source of secrets must give 43 URL-safe characters"
    return text


def is_key(text: str) -> bool:
    """True if the text has the form of a key; it may still be unknown."""
    return _KEY.fullmatch(text) is not None


def hash_key(text: str) -> str:
    """SHA-256 in hex. A plain hash is enough: a key has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def parse_authorization(header: str | None) -> str:
    """The key's text out of `Authorization: Bearer tw-...`.

    Raises:
        AuthenticationError: there is none.
    """
    kind, _, text = (header or "").strip().partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise AuthenticationError("no API key was sent; send it as 'Authorization: Bearer KEY'", code="missing_api_key")
    return text.strip()


def check_good(key: ApiKey | None, now_ms: int) -> ApiKey:
    """Return the key if it can be used now.

    Raises:
        AuthenticationError: it is unknown, revoked or expired; the `code` says which.
    """
    if key is None:
        raise AuthenticationError("this API key is not known here; 'tokenworks keys create' makes one")
    if key.is_revoked:
        raise AuthenticationError(f"the API key {key.key_id} was revoked", code="revoked_api_key")
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise AuthenticationError(f"the API key {key.key_id} has expired", code="expired_api_key")
    return key


def check_scope(key: ApiKey, scope: Scope) -> ApiKey:
    """Return the key if it has the scope; `admin` covers all.

    Raises:
        PermissionDeniedError: it has not.
    """
    if scope not in key.scopes and Scope.ADMIN not in key.scopes:
        raise PermissionDeniedError(f"the API key {key.key_id} lacks the scope {scope.value!r}")
    return key


def check_key_request(wanted: KeyRequest, now_ms: int) -> None:
    """Refuse a key that could never be used, or that would hand the whole installation to another organization.

    Raises:
        InvalidRequestError: it would.
    """
    if wanted.expires_at_ms is not None and wanted.expires_at_ms <= now_ms:
        raise InvalidRequestError("expires_at_ms lies in the past", param="expires_at_ms")
    if wanted.expires_at_ms is not None and wanted.expires_at_ms > _TIME_MS_MAX:
        raise InvalidRequestError("expires_at_ms lies after the year 9999", param="expires_at_ms")
    if Scope.ADMIN in wanted.scopes and wanted.organization != DEFAULT_NAME:
        raise InvalidRequestError(
            f"the scope 'admin' covers every organization; only keys of {DEFAULT_NAME!r} may have it", param="scopes"
        )


def check_may_revoke(key: ApiKey, keys: Sequence[ApiKey], now_ms: int) -> None:
    """Keep the last key that can administer.

    Raises:
        ConflictError: nobody could administer this installation afterwards.
    """
    if is_admin(key, now_ms) and not any(is_admin(other, now_ms) for other in keys if other.key_id != key.key_id):
        raise ConflictError(
            f"{key.key_id} is the last key with the scope 'admin'; make another one first: "
            "tokenworks keys create --organization default --scopes admin",
            code="last_admin_key",
        )


def is_admin(key: ApiKey, now_ms: int) -> bool:
    """True if the key can administer now."""
    expired = key.expires_at_ms is not None and key.expires_at_ms <= now_ms
    return Scope.ADMIN in key.scopes and not key.is_revoked and not expired
