"""Makes values for tests: every field has a plausible default, a test names only those that it is about."""

from typing import Any

from tokenworks.metering.model import Closed, Counts, Opened, Status

STARTED_AT_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC."""


def make_usage(input_tokens: int = 12, output_tokens: int = 8, *, cached_input_tokens: int = 0) -> Counts:
    """Return what a request used; the cached part is a part of the input."""
    assert 0 <= cached_input_tokens <= input_tokens, "the cached part is a part of the input"
    return Counts(input_tokens, cached_input_tokens, output_tokens)


def make_opened(request_id: str = "req_1", **fields: Any) -> Opened:
    """Return the record of a request that was accepted."""
    return Opened(**{**_identity(request_id), **fields})


def make_closed(request_id: str = "req_1", **fields: Any) -> Closed:
    """Return the record of a request that ended, one second after it began."""
    ending = {
        "ended_at_ms": fields.get("started_at_ms", STARTED_AT_MS) + 1000,
        "status": Status.COMPLETED,
        "reason": "",
        "counts": make_usage(),
    }
    return Closed(**{**_identity(request_id), **ending, **fields})


def _identity(request_id: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "client_request_id": None,
        "organization": "default",
        "project": "default",
        "key_id": "key_1",
        "model": "smollm2-135m-instruct",
        "replica_id": "rep_1",
        "started_at_ms": STARTED_AT_MS,
    }
