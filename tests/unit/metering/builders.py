"""Records and a clock for the tests of metering."""

from typing import Any

import msgspec

from tokenworks.metering.model import Closed, Counts, Opened, Progress, Status


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


class ManualClock:
    """Time stands until it is told to move."""

    def __init__(self, ms: int = 5_000) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms
