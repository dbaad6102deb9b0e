"""Decisions of metering: what a record must hold, how counts grow, what recovery makes of a request left open. Pure.

Invariants: counts never fall; the cached part is never more than the input; a request that has opened closes once; its
closing record repeats its identity, so that a usage row needs nothing else.
"""

from tokenworks.metering.model import Closed, Counts, Opened, Progress, Record, Status

TOKENS_MAX = 2**53 - 1
"""Largest count that every JSON reader takes exactly."""
TIME_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999, the last that RFC 3339 can write."""
IDENTITY_CHARACTERS_MAX = 1024
"""Of each id and name in a record."""
REASON_BYTES_MAX = 200
"""Of a closing record; a door writes an error's code, or nothing."""
DOOR_DIED = "the door died; the counts are the last that were durable"
"""The reason of a row that recovery made."""
CLOSING_BYTES_MAX = 256
"""A closing record is at most this much longer than the opening one: end, status, reason and counts.

Source: MessagePack: 9 (time) + 12 (status) + 2 + REASON_BYTES_MAX + 1 + 3 * 9 (counts).
"""


def advance(last: Counts, seen: Counts) -> Counts:
    """The counts after an engine has reported `seen`: never less than `last`, the cached part within the input."""
    input_tokens = max(last.input_tokens, seen.input_tokens)
    return Counts(
        input_tokens=input_tokens,
        cached_input_tokens=min(input_tokens, max(last.cached_input_tokens, seen.cached_input_tokens)),
        output_tokens=max(last.output_tokens, seen.output_tokens),
    )


def find_fault(record: Record) -> str | None:
    """What a record holds that no request can have, in a sentence; None if it is sound."""
    if isinstance(record, Progress):
        return _find_identity_fault((record.request_id,)) or _find_counts_fault(record.counts)
    named = (record.request_id, record.organization, record.project, record.key_id, record.model, record.replica_id)
    fault = _find_identity_fault(named)
    if not fault and record.client_request_id is not None:
        fault = _find_text_fault(record.client_request_id)
    if not fault and not 0 <= record.started_at_ms <= TIME_MS_MAX:
        fault = f"it started at {record.started_at_ms} ms, which is no time"
    if not fault and isinstance(record, Closed):
        fault = _find_closing_fault(record)
    return fault


class OpenRequests:
    """The requests that have opened and not closed, in the order of a journal's records."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Opened, Counts]] = {}

    def apply(self, record: Record) -> str | None:
        """Take the next record; the answer names a step that no sound door makes, and None is the normal one.

        A doubtful step never takes counts or a request away: progress without an opening has nobody to be charged, a
        second opening changes nothing, and of counts that fall the larger stay.
        """
        known = self._open.get(record.request_id)
        if isinstance(record, Opened):
            if known is not None:
                return f"{record.request_id!r} opened twice"
            self._open[record.request_id] = (record, Counts())
            return None
        if known is None:
            return f"{record.request_id!r} goes on without having opened"
        opened, last = known
        highest = advance(last, record.counts)
        if isinstance(record, Closed):
            del self._open[record.request_id]
        else:
            self._open[record.request_id] = (opened, highest)
        return None if highest == record.counts else f"the counts of {record.request_id!r} fell"

    def close_all(self, ended_at_ms: int) -> list[Closed]:
        """Close each with its last counts, as its door's death leaves it."""
        return [_interrupt(opened, counts, ended_at_ms) for opened, counts in self._open.values()]


def _interrupt(opened: Opened, counts: Counts, ended_at_ms: int) -> Closed:
    return Closed(
        request_id=opened.request_id,
        client_request_id=opened.client_request_id,
        organization=opened.organization,
        project=opened.project,
        key_id=opened.key_id,
        model=opened.model,
        replica_id=opened.replica_id,
        started_at_ms=opened.started_at_ms,
        ended_at_ms=max(opened.started_at_ms, ended_at_ms),  # a wall clock may be set back meanwhile
        status=Status.INTERRUPTED,
        reason=DOOR_DIED,
        counts=counts,
    )


def _find_identity_fault(named: tuple[str, ...]) -> str | None:
    if not named[0]:
        return "it has no request_id"
    return next(filter(None, map(_find_text_fault, named)), None)


def _find_text_fault(text: str) -> str | None:
    if len(text) > IDENTITY_CHARACTERS_MAX:
        return f"an id or name has {len(text)} characters"
    return "an id or name holds NUL, which no database takes" if "\0" in text else None


def _find_counts_fault(counts: Counts) -> str | None:
    each = (counts.input_tokens, counts.cached_input_tokens, counts.output_tokens)
    if min(each) < 0 or max(each) > TOKENS_MAX:
        return f"its counts {each} are not between 0 and {TOKENS_MAX}"
    if counts.cached_input_tokens > counts.input_tokens:
        return f"it has more cached input ({counts.cached_input_tokens}) than input ({counts.input_tokens})"
    return None


def _find_closing_fault(closed: Closed) -> str | None:
    if not closed.started_at_ms <= closed.ended_at_ms <= TIME_MS_MAX:
        return f"it ended at {closed.ended_at_ms} ms and started at {closed.started_at_ms} ms"
    return _find_text_fault(closed.reason) or _find_counts_fault(closed.counts)
