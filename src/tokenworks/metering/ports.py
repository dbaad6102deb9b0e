"""What metering needs from outside: a durable, ordered journal, and control at the far end of shipping."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tokenworks.metering.model import Position, Record

Durable = Callable[[BaseException | None], None]
"""Called once on the event loop: with None when durable, with the error when the record can never be."""

Pause = Callable[[int], Awaitable[None]]
"""Wait for so many milliseconds."""


class Journal(Protocol):
    """A door's append-only journal. Not thread-safe: call it from the event loop that owns it."""

    def append(self, record: Record) -> int:
        """Buffer a record; return its position (the end offset in a sequence that only grows).

        Raises:
            StorageFullError: the disk has no room for a new request's records (only for `Opened`).
            UnavailableError: the disk failed; nothing will ever be durable here again.
        """
        ...

    def when_durable(self, position: int, callback: Durable) -> None:
        """Call `callback` once everything up to `position` is on stable storage; at once if it is already."""
        ...


class ShippableJournal(Protocol):
    """The reading side of a journal: only what is durable can be seen."""

    @property
    def journal_id(self) -> str:
        """The name under which control keeps its position."""
        ...

    @property
    def first_segment(self) -> int:
        """The first file that this process wrote to; all before it is from earlier ones."""
        ...

    @property
    def durable_end(self) -> Position:
        """Everything before this is durable."""
        ...

    async def read_durable(self, segment: int, offset: int, limit: int) -> bytes:
        """About `limit` bytes of whole records from a record's beginning on, or one damaged stretch; b"" at the end."""
        ...

    def find_next_segment(self, segment: int) -> int | None:
        """The first later file that may hold durable records."""
        ...

    async def wait_grown(self, beyond: Position) -> None:
        """Return when something behind `beyond` is durable."""
        ...

    async def archive(self, segment: int) -> None:
        """Put files before `segment` away, which control has whole; forget those put away long ago."""
        ...

    async def take_new_id(self) -> None:
        """Be a journal that control has not heard of: all is shipped again, and a replay changes nothing."""
        ...

    async def close(self) -> None:
        """Make everything durable and let the folder go."""
        ...


class UsageSink(Protocol):
    """Control, as a shipper sees it. Both calls end in time, with an error when control is away."""

    async def position(self, journal_id: str) -> Position:
        """Where control stands in that journal."""
        ...

    async def send(self, journal_id: str, position: Position, content: bytes) -> Position:
        """Ship the bytes at `position`; return where control stands then, also where it refused them (409)."""
        ...


OpenLeftJournal = Callable[[], Awaitable[ShippableJournal]]
"""Open and recover the journal of a door that does not run any more; fails if it is in use or cannot be read."""

FindLeftJournals = Callable[[], Sequence[OpenLeftJournal]]
"""Look for journals of doors that do not run any more; none is opened yet."""
