"""What accounts need from outside: secrets, and a place for the administrator's key."""

from collections.abc import Callable
from typing import Protocol

MakeSecret = Callable[[], str]
"""Returns a new unguessable text of letters, digits, `-` and `_` with at least 256 bits."""


class KeyFile(Protocol):
    """Where the administrator finds the first key."""

    @property
    def place(self) -> str:
        """A name for messages, such as its path."""
        ...

    def read(self) -> str | None:
        """Return its text without white space around, or None if there is no file."""
        ...

    def write(self, text: str) -> None:
        """Replace it in one step; durable when this returns."""
        ...
