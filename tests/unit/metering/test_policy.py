"""How requests end, what a sound record holds, what recovery makes of open requests."""

from typing import Any

import msgspec
import pytest

from tests.unit.metering.builders import make_closed, make_interrupted, make_opened, make_progress, recover
from tokenworks.metering.journal import encode
from tokenworks.metering.model import Closed, Counts, Progress, Record, Status
from tokenworks.metering.policy import (
    CLOSING_BYTES_MAX,
    REASON_BYTES_MAX,
    TIME_MS_MAX,
    TOKENS_MAX,
    OpenRequests,
    advance,
    find_fault,
)


def test_a_closing_record_never_needs_more_room_than_was_kept_for_it() -> None:
    largest = Counts(TOKENS_MAX, TOKENS_MAX, TOKENS_MAX)
    for status in Status:
        closed = make_closed(
            ended_at_ms=TIME_MS_MAX, status=status, reason="x" * REASON_BYTES_MAX, counts=largest, started_at_ms=1_000
        )
        assert len(encode(closed)) <= len(encode(make_opened())) + CLOSING_BYTES_MAX


@pytest.mark.parametrize(
    ("last", "seen", "expected"),
    [
        ((0, 0, 0), (5, 2, 1), (5, 2, 1)),
        ((5, 2, 9), (5, 2, 1), (5, 2, 9)),
        ((5, 2, 1), (0, 0, 3), (5, 2, 3)),
        ((0, 0, 0), (5, 9, 1), (5, 5, 1)),
        ((0, 0, 0), (-5, -1, -1), (0, 0, 0)),
    ],
    ids=["first", "output fell", "input vanished", "more cached than input", "negative"],
)
def test_counts_never_fall(
    last: tuple[int, int, int], seen: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    assert advance(Counts(*last), Counts(*seen)) == Counts(*expected)


@pytest.mark.parametrize(
    "record",
    [
        make_opened(),
        make_progress(),
        make_closed(),
        make_closed(client_request_id="mine"),
        make_closed(ended_at_ms=1_000),
        make_closed(started_at_ms=0, ended_at_ms=TIME_MS_MAX),
        make_closed(counts=Counts(TOKENS_MAX, TOKENS_MAX, TOKENS_MAX)),
        make_closed(client_request_id="x" * 1024),
    ],
)
def test_sound_records(record: Record) -> None:
    assert find_fault(record) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"request_id": ""}, "it has no request_id"),
        ({"organization": "a\0"}, "an id or name holds NUL, which no database takes"),
        ({"model": "x" * 1025}, "an id or name has 1025 characters"),
        ({"client_request_id": "\0"}, "an id or name holds NUL, which no database takes"),
        ({"started_at_ms": -1}, "it started at -1 ms, which is no time"),
        ({"started_at_ms": TIME_MS_MAX + 1}, f"it started at {TIME_MS_MAX + 1} ms, which is no time"),
        ({"ended_at_ms": 999}, "it ended at 999 ms and started at 1000 ms"),
        ({"ended_at_ms": TIME_MS_MAX + 1}, f"it ended at {TIME_MS_MAX + 1} ms and started at 1000 ms"),
        ({"reason": "a\0"}, "an id or name holds NUL, which no database takes"),
        ({"counts": Counts(1, 2, 0)}, "it has more cached input (2) than input (1)"),
        ({"counts": Counts(0, 0, -1)}, f"its counts (0, 0, -1) are not between 0 and {TOKENS_MAX}"),
        ({"counts": Counts(TOKENS_MAX + 1)}, f"its counts ({TOKENS_MAX + 1}, 0, 0) are not between 0 and {TOKENS_MAX}"),
    ],
)
def test_faults_of_closing_records(changes: dict[str, Any], fault: str) -> None:
    assert find_fault(msgspec.structs.replace(make_closed(), **changes)) == fault


def test_faults_of_other_records() -> None:
    assert find_fault(make_opened("")) == "it has no request_id"
    assert find_fault(make_opened(started_at_ms=-1)) == "it started at -1 ms, which is no time"
    assert find_fault(Progress("", Counts())) == "it has no request_id"
    assert find_fault(Progress("req_1", Counts(1, 2, 3))) == "it has more cached input (2) than input (1)"


def interrupted(request_id: str, counts: Counts) -> Closed:
    return make_interrupted(request_id, counts, 9_000)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([make_opened("a")], [interrupted("a", Counts())]),
        ([make_opened("a"), make_progress("a", 3), make_progress("a", 8)], [interrupted("a", Counts(10, 4, 8))]),
        ([make_opened("a"), make_progress("a", 3), make_closed("a")], []),
        ([make_opened("a"), make_opened("b"), make_closed("a")], [interrupted("b", Counts())]),
        (
            [make_opened("b"), make_opened("a"), make_progress("a", 1)],
            [interrupted("b", Counts()), interrupted("a", Counts(10, 4, 1))],
        ),
        ([make_progress("a", 3)], []),
        ([make_closed("a")], []),
    ],
    ids=["nothing", "opened", "progress", "closed", "one of two", "two in order", "opening lost", "only the closing"],
)
def test_recovery(records: list[Record], expected: list[Closed]) -> None:
    assert recover(records, 9_000) == expected


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([make_opened()], None),
        ([make_opened(), make_progress()], None),
        ([make_opened(), make_progress(), make_closed()], None),
        ([make_opened(), make_opened()], "'req_1' opened twice"),
        ([make_progress()], "'req_1' goes on without having opened"),
        ([make_opened(), make_closed(), make_closed()], "'req_1' goes on without having opened"),
        ([make_opened(), make_progress(output_tokens=9), make_progress(output_tokens=8)], "the counts of 'req_1' fell"),
        ([make_opened(), make_progress(output_tokens=30), make_closed()], "the counts of 'req_1' fell"),
    ],
)
def test_steps_of_a_request(records: list[Record], fault: str | None) -> None:
    requests = OpenRequests()
    assert [requests.apply(record) for record in records] == [None] * (len(records) - 1) + [fault]


def test_what_recovery_makes_is_sound_and_repeats_the_opening() -> None:
    opened = make_opened(client_request_id="mine", started_at_ms=9_001)
    (closed,) = recover([opened, make_progress()], 9_000)
    assert find_fault(closed) is None
    assert closed.started_at_ms == closed.ended_at_ms == 9_001, (
        "a clock that was set back ends nothing before its start"
    )
    assert all(getattr(closed, name) == getattr(opened, name) for name in opened.__struct_fields__)


def test_of_counts_that_fall_the_larger_stay() -> None:
    records: list[Record] = [make_opened(), make_progress(output_tokens=9), make_progress(output_tokens=8)]
    assert recover(records, 9_000)[0].counts.output_tokens == 9
