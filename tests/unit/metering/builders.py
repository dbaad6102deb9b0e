"""Records and a clock for the tests of metering."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tokenworks.metering.model import Closed, Counts, Opened, Progress, Record, Status
from tokenworks.metering.policy import DOOR_DIED, OpenRequests


def make_opened(request_id: str = "req_1", **changes: Any) -> Opened:
    opened = Opened(
        request_id=request_id,
        client_request_id=None,
        organization="default",
        project="default",
        key_id="key_1",
        model="smollm2-135m-instruct",
        replica_id="rep_1",
        started_at_ms=1_000,
    )
    return msgspec.structs.replace(opened, **changes)


def make_progress(request_id: str = "req_1", output_tokens: int = 5) -> Progress:
    return Progress(request_id, Counts(10, 4, output_tokens))


def make_closed(request_id: str = "req_1", **changes: Any) -> Closed:
    closed = Closed(
        request_id=request_id,
        client_request_id=None,
        organization="default",
        project="default",
        key_id="key_1",
        model="smollm2-135m-instruct",
        replica_id="rep_1",
        started_at_ms=1_000,
        ended_at_ms=2_000,
        status=Status.COMPLETED,
        reason="",
        counts=Counts(10, 4, 20),
    )
    return msgspec.structs.replace(closed, **changes)


def make_interrupted(request_id: str, counts: Counts, ended_at_ms: int) -> Closed:
    """What recovery makes of `make_opened(request_id)`."""
    return make_closed(request_id, ended_at_ms=ended_at_ms, status=Status.INTERRUPTED, reason=DOOR_DIED, counts=counts)


def recover(records: Iterable[Record], ended_at_ms: int) -> list[Closed]:
    """Closing records for the requests that opened and never closed, as a door's recovery makes them."""
    requests = OpenRequests()
    for record in records:
        requests.apply(record)
    return requests.close_all(ended_at_ms)


class ManualClock:
    """Time stands until it is told to move."""

    def __init__(self, ms: int = 5_000) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms
