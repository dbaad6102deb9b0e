"""Ids as a port: unique without coordination, chosen by the caller before the first try."""

import itertools
import secrets
from typing import Protocol


class Ids(Protocol):
    """Makes ids that nobody made before."""

    def new(self, prefix: str) -> str:
        """Return `<prefix>_<random>`; unguessable."""
        ...


class RandomIds:
    """96 random bits per id."""

    def new(self, prefix: str) -> str:
        return f"{prefix}_{secrets.token_hex(12)}"


class SequenceIds:
    """Cheap ids for a hot path: 80 random bits once per process, then a counter (about 0.1 us an id).

    Unique over processes by the random part; not secret, so never a credential.
    """

    def __init__(self, seed_hex: str | None = None) -> None:
        self._seed = seed_hex or secrets.token_hex(10)
        self._count = itertools.count(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}_{self._seed}{next(self._count):08x}"


def make_secret() -> str:
    """An unguessable text of letters, digits, `-` and `_`: 256 random bits."""
    return secrets.token_urlsafe(32)
