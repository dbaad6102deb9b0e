"""Opening a journal's folder after whatever happened to its last owner. Blocking; done once, before the first append.

Invariants: a request that opened and never closed gets one closing record; no segment that holds a byte is written to
again, except that the torn tail of the last one is cut; a damaged stretch is copied aside and stays where it is, so
that it is shipped and set aside by control, too; no number is skipped, so that control can tell when a segment is gone.
"""

import logging
import os
from dataclasses import dataclass, field

from tokenworks.kit.clock import Clock
from tokenworks.kit.ids import Ids
from tokenworks.metering import journal, policy
from tokenworks.metering.adapters.segments import Segment, SegmentFiles
from tokenworks.metering.model import Closed

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """A folder that is ready: locked, read, with a segment to write to."""

    lock: int
    journal_id: str
    current: Segment
    spare: Segment | None = None
    ends: dict[int, int] = field(default_factory=dict)
    """Of each segment that holds records, archived ones too: where they end."""
    interrupted: list[Closed] = field(default_factory=list)
    """Closing records that are still to be appended."""


@dataclass(slots=True)
class _Read:
    ends: dict[int, int]
    torn: dict[int, int]
    interrupted: list[Closed]
    empty: list[int]


def recover_folder(files: SegmentFiles, clock: Clock, ids: Ids) -> Recovered:
    """Lock the folder and read it.

    Raises:
        StartError: another process has it.
        StorageFullError, UnavailableError: the disk has no room for a segment, or fails.
    """
    lock = files.lock()
    try:
        journal_id = files.read_id()
        if journal_id is None:
            journal_id = ids.new("journal")
            files.write_id(journal_id)
        read = _read_segments(files, clock.now_ms())
        _mend_tails(files, read)
        archived = {number: files.measure_archived(number) for number in files.list_archived()}
        current, spare = _take_empty_segments(files, read, max([*read.ends, *archived], default=0))
        return Recovered(lock, journal_id, current, spare, archived | read.ends, read.interrupted)
    except BaseException:
        os.close(lock)
        raise


def _read_segments(files: SegmentFiles, now_ms: int) -> _Read:
    read = _Read({}, {}, [], [])
    requests = policy.OpenRequests()
    for number in files.list_live():
        content = files.read_live(number)
        found = journal.scan(content)
        if not found.end and not found.torn_bytes:
            read.empty.append(number)
            continue
        read.ends[number] = found.end
        read.torn[number] = found.torn_bytes
        for entry in found.entries:
            if entry.record is not None:
                requests.apply(entry.record)
            else:
                _keep_unreadable(files, number, entry.offset, content[entry.offset : entry.end])
    read.interrupted = requests.close_all(now_ms)
    return read


def _mend_tails(files: SegmentFiles, read: _Read) -> None:
    """Cut the last segment's torn tail. A segment is synced before its next is written: elsewhere it is damage."""
    last = max(read.ends, default=0)
    for number, torn_bytes in read.torn.items():
        end = read.ends[number]
        if torn_bytes and number == last:
            _logger.warning("journal %s: cut %d bytes of a torn tail at %d-%d", files.folder, torn_bytes, number, end)
            files.cut(number, end, torn_bytes)
            if not end:
                del read.ends[number]
                read.empty.append(number)
        elif torn_bytes:
            read.ends[number] = end + torn_bytes
            _keep_unreadable(files, number, end, files.read(number, end, torn_bytes))


def _take_empty_segments(files: SegmentFiles, read: _Read, last: int) -> tuple[Segment, Segment | None]:
    """A segment to write to behind `last`, and the next one: those that were reserved and not used, or a new one."""
    behind = sorted(number for number in read.empty if number > last)
    taken: list[Segment] = []
    for number in behind[:2]:
        segment = files.reopen(number) if number == behind[0] + len(taken) else None
        if segment is None:
            break
        taken.append(segment)
    used = {segment.number for segment in taken}
    for number in sorted({*read.empty} - used, reverse=True):  # killed between two of them, this leaves no hole
        files.delete_empty(number)
    if not taken:
        taken.append(files.create(behind[0] if behind else last + 1))
    return taken[0], taken[1] if len(taken) == 2 else None


def _keep_unreadable(files: SegmentFiles, number: int, offset: int, content: bytes) -> None:
    _logger.error("journal %s: %d bytes at %d-%d cannot be read", files.folder, len(content), number, offset)
    files.keep_unreadable(number, offset, content)
