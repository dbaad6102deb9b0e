"""Types of metering: the three records of a request's life, and the usage row that comes of them.

Invariants: integers only; `cached_input_tokens <= input_tokens`; a request has one `Opened`, any number of `Progress`
whose counts never fall, and at most one `Closed`. `Closed` repeats the identity of `Opened`, so that a row can be made
from it alone. The records are msgspec structs written as MessagePack arrays: fields may be appended, never reordered.
"""

from enum import StrEnum

import msgspec

from tokenworks.kit.errors import ConflictError


class Status(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    """The engine finished and the end of the answer was released to the client."""
    CANCELLED = "cancelled"
    """The client left before the end."""
    INTERRUPTED = "interrupted"
    """The door or its machine died; the counts are the last durable progress."""
    FAILED = "failed"
    """The replica failed, timed out, or answered an error after it had begun."""


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """Tokens so far, as the engine counts them. `input_tokens` is the whole prompt, cached part included."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """A request was accepted. Durable before the first byte of its answer."""

    request_id: str
    client_request_id: str | None
    organization: str
    project: str
    key_id: str
    model: str
    replica_id: str
    started_at_ms: int


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """Counts of a running request, written about once a second."""

    request_id: str
    counts: Counts


class Closed(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A request ended. Durable before the end of its answer is released."""

    request_id: str
    client_request_id: str | None
    organization: str
    project: str
    key_id: str
    model: str
    replica_id: str
    started_at_ms: int
    ended_at_ms: int
    status: Status
    reason: str
    counts: Counts


Record = Opened | Progress | Closed


class Position(msgspec.Struct, frozen=True, order=True):
    """A place between two records of a journal: file number and byte offset in it. Later places compare greater."""

    segment: int
    offset: int


START = Position(0, 0)
"""Where control stands in a journal that it never heard of."""


class JournalStanding(msgspec.Struct, frozen=True):
    """How far a journal has been taken over, and when it last moved."""

    journal_id: str
    position: Position
    moved_at_ms: int


class PositionConflictError(ConflictError):
    """A shipment did not begin where control stands in that journal; `position` is where it does."""

    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.position = position


class SumBy(StrEnum):
    """What usage is summed by. Days and hours are those of UTC in which requests started."""

    KEY = "key"
    PROJECT = "project"
    MODEL = "model"
    DAY = "day"
    HOUR = "hour"


class UsageFilter(msgspec.Struct, frozen=True):
    """Which usage is meant; None means any. Requests that started in `[since_ms, until_ms)`."""

    organization: str | None = None
    project: str | None = None
    key_id: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """What one request used: a row that never changes."""

    request_id: str
    client_request_id: str | None
    organization: str
    project: str
    key_id: str
    model: str
    replica_id: str
    counts: Counts
    cost_nano: int
    currency: str
    energy_microjoules: int | None
    energy_source: str | None
    status: Status
    reason: str
    started_at_ms: int
    ended_at_ms: int


class UsageSum(msgspec.Struct, frozen=True):
    """Usage of many requests in one currency. `name` is the key's id, the project, the model, or the start in ms."""

    name: str | int
    organization: str
    currency: str
    requests: int
    counts: Counts
    cost_nano: int
    energy_microjoules: int | None
    """Of those requests that have a figure; None if none has."""
