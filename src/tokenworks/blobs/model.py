"""A blob's name and size. Invariant: equal digests are equal bytes."""

import re
from dataclasses import dataclass

from tokenworks.kit.errors import InvalidRequestError

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Blob:
    """Some stored bytes."""

    digest: str
    """SHA-256, 64 hex digits."""
    size_bytes: int


def check_digest(digest: str) -> str:
    """Return the digest if it is one; so no other text ever becomes part of a path.

    Raises:
        InvalidRequestError: it is not 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(f"{digest[:80]!r} is not a SHA-256 in 64 lower-case hex digits", param="digest")
    return digest
