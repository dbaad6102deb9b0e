"""The journal's bytes: records in frames that tell a whole record from a torn or damaged one. Pure.

A frame is a header `<2sHI` (magic `TW`, length of the payload, CRC-32 of the payload) and the payload, one record as
MessagePack. Behind the last frame of a file are zeros. Invariants: a frame lies in one file; what `encode` made is what
`scan` finds, whatever is damaged around it; nothing without a matching checksum becomes a record.
"""

import struct
from zlib import crc32

import msgspec

from tokenworks.kit.errors import TooLargeError
from tokenworks.metering.model import Record

MAGIC = b"TW"
HEADER_BYTES = 8
FRAME_BYTES_MAX = HEADER_BYTES + 0xFFFF
"""No frame can be longer: the header's length has 16 bits."""
RECORD_BYTES_MAX = 8192
"""No payload that we write is longer, so that the room which a closing record needs is known when a request opens."""

_HEADER = struct.Struct("<2sHI")
_pack = _HEADER.pack
_unpack = _HEADER.unpack_from
_to_payload = msgspec.msgpack.Encoder().encode
_to_record = msgspec.msgpack.Decoder(Record).decode


class Entry(msgspec.Struct, frozen=True):
    """A stretch `[offset, end)` of a journal: a record, or bytes that are none and `why` they are none."""

    offset: int
    end: int
    record: Record | None
    why: str = ""


class Scan(msgspec.Struct, frozen=True):
    """What some bytes of a journal hold. The entries follow each other without gaps up to `end`."""

    entries: list[Entry]
    end: int
    """Where the last frame ends; what follows holds none."""
    torn_bytes: int
    """Bytes behind `end` up to the last that is not zero: a frame whose writing was cut, or a damaged last one."""


def encode(record: Record) -> bytes:
    """One frame.

    Raises:
        TooLargeError: the record has more than `RECORD_BYTES_MAX` bytes.
    """
    payload = _to_payload(record)
    size = len(payload)
    if size > RECORD_BYTES_MAX:
        raise TooLargeError(f"the record of {record.request_id[:80]!r} has {size} bytes, more than {RECORD_BYTES_MAX}")
    return _pack(MAGIC, size, crc32(payload)) + payload


def scan(data: bytes, offset: int = 0) -> Scan:
    """Read all that can be read from `offset` on; behind damage, go on at the next frame whose checksum matches."""
    view = memoryview(data)
    entries: list[Entry] = []
    position = offset
    while True:
        end = _end_of_frame(view, position)
        if end:
            entries.append(_decode(view, position, end))
            position = end
            continue
        found = _find_frame(data, view, position + 1)
        if found < 0:
            return Scan(entries, position, len(data[position:].rstrip(b"\0")))
        entries.append(Entry(position, found, None, "the bytes are damaged: no checksum matches"))
        position = found


def measure_shipment(data: bytes, limit: int) -> int:
    """How many of `data`'s bytes to ship at once: whole records of at most `limit` bytes, or one damaged stretch.

    `data` begins where a record should; it holds `FRAME_BYTES_MAX` bytes more than `limit`, or ends where a record
    does. At least one record is taken, whatever its size, and a damaged stretch is never cut inside a record.
    """
    view = memoryview(data)
    position = 0
    end = _end_of_frame(view, 0)
    while end and (end <= limit or not position):
        position = end
        end = _end_of_frame(view, position)
    if position or not data:
        return position
    found = _find_frame(data, view, 1)
    return min(limit, found if found > 0 else len(data))


def _end_of_frame(view: memoryview, position: int) -> int:
    """Where the frame at `position` ends, or 0 if there is none that is whole and right."""
    start = position + HEADER_BYTES
    if start >= len(view):
        return 0
    magic, size, checksum = _unpack(view, position)
    end = start + size
    if magic != MAGIC or not size or end > len(view) or crc32(view[start:end]) != checksum:
        return 0
    return int(end)


def _find_frame(data: bytes, view: memoryview, position: int) -> int:
    """The first place from `position` on where a frame begins, or -1."""
    found = data.find(MAGIC, position)
    while found >= 0 and not _end_of_frame(view, found):
        found = data.find(MAGIC, found + 1)
    return found


def _decode(view: memoryview, offset: int, end: int) -> Entry:
    try:
        return Entry(offset, end, _to_record(view[offset + HEADER_BYTES : end]))
    except (msgspec.MsgspecError, ValueError) as error:
        return Entry(offset, end, None, f"the record cannot be decoded: {error}")
