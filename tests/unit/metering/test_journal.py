"""The journal's bytes: what is written is found, and nothing else is."""

import struct
from zlib import crc32

import msgspec
import pytest

from tests.unit.metering.builders import make_closed, make_opened, make_progress
from tokenworks.kit.errors import TooLargeError
from tokenworks.metering.journal import (
    FRAME_BYTES_MAX,
    MAGIC,
    RECORD_BYTES_MAX,
    Entry,
    encode,
    measure_shipment,
    scan,
)
from tokenworks.metering.model import Record

RECORDS: list[Record] = [make_opened(), make_progress(), make_closed()]
FRAMES = [encode(record) for record in RECORDS]


def frame(payload: bytes) -> bytes:
    return struct.pack("<2sHI", MAGIC, len(payload), crc32(payload)) + payload


def test_format_of_a_frame() -> None:
    payload = msgspec.msgpack.encode(make_progress())
    assert encode(make_progress()) == frame(payload)
    assert msgspec.msgpack.decode(payload) == ["p", "req_1", [10, 4, 5]]


def test_a_record_that_is_too_large_is_refused() -> None:
    size = len(msgspec.msgpack.encode(make_opened("x" * 8000)))
    whole = make_opened("x" * (8000 + RECORD_BYTES_MAX - size))
    assert scan(encode(whole)).entries[0].record == whole
    with pytest.raises(TooLargeError, match="8193 bytes, more than 8192"):
        encode(make_opened("x" * (8001 + RECORD_BYTES_MAX - size)))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\0" * 100], ids=["nothing", "a zero", "zeros"])
def test_what_is_written_is_found(tail: bytes) -> None:
    found = scan(b"".join(FRAMES) + tail)
    assert [entry.record for entry in found.entries] == RECORDS
    assert [entry.offset for entry in found.entries] == [0, len(FRAMES[0]), len(FRAMES[0] + FRAMES[1])]
    assert (found.end, found.torn_bytes) == (sum(map(len, FRAMES)), 0)


def test_scan_from_a_later_record() -> None:
    found = scan(b"".join(FRAMES), len(FRAMES[0]))
    assert [entry.record for entry in found.entries] == RECORDS[1:]


@pytest.mark.parametrize("data", [b"", b"\0" * 50])
def test_nothing_is_found_in_nothing(data: bytes) -> None:
    found = scan(data)
    assert (found.entries, found.end, found.torn_bytes) == ([], 0, 0)


@pytest.mark.parametrize("kept", range(1, len(FRAMES[1])))
def test_a_torn_tail_is_told_from_the_end(kept: int) -> None:
    found = scan(FRAMES[0] + FRAMES[1][:kept] + b"\0" * 500)
    assert [entry.record for entry in found.entries] == RECORDS[:1]
    assert found.end == len(FRAMES[0])
    assert found.torn_bytes == len(FRAMES[1][:kept].rstrip(b"\0"))


@pytest.mark.parametrize("damage", [b"\0" * 40, b"TW" * 20, b"TW\0\0\0\0\0\0" * 3, b"x"])
def test_behind_damage_the_next_record_is_found(damage: bytes) -> None:
    found = scan(FRAMES[0] + damage + FRAMES[2])
    start, end = len(FRAMES[0]), len(FRAMES[0] + damage)
    assert found.entries == [
        Entry(0, start, RECORDS[0]),
        Entry(start, end, None, "the bytes are damaged: no checksum matches"),
        Entry(end, end + len(FRAMES[2]), RECORDS[2]),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode(["z", "req_1"]),
        msgspec.msgpack.encode(["p", "req_1", [1, "two", 3]]),
        msgspec.msgpack.encode(["p"]),
        msgspec.msgpack.encode(17),
        b"\xc1",
        b"\x93\xa1p\xa2\xff\xfe\x93\1\1\1",
    ],
    ids=["unknown kind", "wrong type", "too short", "no array", "no msgpack", "no UTF-8"],
)
def test_a_right_checksum_over_no_record_is_set_apart(payload: bytes) -> None:
    found = scan(frame(payload) + FRAMES[1])
    assert found.entries[0].record is None
    assert found.entries[0].why.startswith("the record cannot be decoded: ")
    assert found.entries[1].record == RECORDS[1]


def test_fields_of_a_later_version_are_passed_over() -> None:
    payload = msgspec.msgpack.encode(["p", "req_1", [10, 4, 5, 99], "new"])
    assert scan(frame(payload)).entries[0].record == make_progress()


def test_shipment_takes_whole_records_up_to_the_limit() -> None:
    data = b"".join(FRAMES)
    ends = [len(FRAMES[0]), len(FRAMES[0] + FRAMES[1]), len(data)]
    assert measure_shipment(data, len(data)) == ends[2]
    assert measure_shipment(data, ends[2] - 1) == ends[1]
    assert measure_shipment(data, ends[1]) == ends[1]
    assert measure_shipment(data, ends[1] - 1) == ends[0]
    assert measure_shipment(data, 1) == ends[0], "one record goes, whatever its size"
    assert measure_shipment(b"", 100) == 0


def test_shipment_ends_before_damage_and_then_holds_the_damage_alone() -> None:
    damage = b"damage TW"
    data = FRAMES[0] + damage + FRAMES[1]
    assert measure_shipment(data, len(data)) == len(FRAMES[0])
    assert measure_shipment(data[len(FRAMES[0]) :], len(data)) == len(damage)


def test_damage_that_is_larger_than_a_shipment_is_cut_outside_of_records() -> None:
    limit = 100
    damage = b"?" * (limit + 50)
    data = (damage + FRAMES[0]).ljust(limit + FRAME_BYTES_MAX, b"\0")
    first = measure_shipment(data, limit)
    assert first == limit
    assert measure_shipment(data[first:], limit) == 50
    assert measure_shipment(b"?" * 30, limit) == 30, "the journal ends in damage"
