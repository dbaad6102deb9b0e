"""A door's journal on a local disk, group-committed: what is appended while a flush runs goes into the next one.

The event loop only encodes records into a list. One thread writes and syncs everything gathered, and reports once per
flush; a second thread reserves the next segment ahead, reads for shipping and archives. Invariants: positions only
grow; a record lies in one segment; a segment is synced before the next is written; for each open request the room of
its closing record is kept free, so that a full disk refuses new requests and loses none that runs; after a failed sync
nothing is ever called durable again.
"""

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenworks.kit.clock import Clock
from tokenworks.kit.errors import StartError, StorageFullError, TokenworksError, UnavailableError
from tokenworks.kit.ids import Ids
from tokenworks.metering import journal, policy
from tokenworks.metering.adapters.recovery import Recovered, recover_folder
from tokenworks.metering.adapters.segments import Segment, SegmentFiles, sync_data, write_all
from tokenworks.metering.adapters.worker import Worker
from tokenworks.metering.model import Closed, Opened, Position, Progress, Record
from tokenworks.metering.ports import Durable

RESERVE_RETRY_S = 1
"""How often a full disk is tried again."""

_SHIFT = 40
_OFFSET_MASK = (1 << _SHIFT) - 1
_SLACK_BYTES = journal.HEADER_BYTES + journal.RECORD_BYTES_MAX + policy.CLOSING_BYTES_MAX
"""What going over to the next segment can waste."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """Frames that follow each other in one segment. `is_last`: nothing comes behind them in it."""

    segment: Segment
    offset: int
    frames: list[bytes]
    is_last: bool


class DiskJournal:
    """Make it with `open`. Not thread-safe: use it on the loop that opened it."""

    def __init__(
        self,
        files: SegmentFiles,
        recovered: Recovered,
        reserve_bytes: int,
        archive_days: int,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._files = files
        self._lock = recovered.lock
        self._journal_id = recovered.journal_id
        self._clock = clock
        self._ids = ids
        self._archive_days = archive_days
        self._writer = Worker("journal-writer")
        self._keeper = Worker("journal-keeper")
        self._error: UnavailableError | None = None
        self._is_closed = False

        self._ends = recovered.ends
        self._current = recovered.current
        self._first_segment = recovered.current.number
        self._spare: Segment | None = None
        self._reserve_bytes = max(_SLACK_BYTES, min(reserve_bytes, files.segment_bytes // 2))
        self._reserve_error = ""
        self._retry: asyncio.TimerHandle | None = None
        self._open: dict[str, tuple[int, int]] = {}  # of each open request: its segment, and the bytes kept for its end
        self._free = self._current.size  # unused bytes in all segments, less what is kept for open requests
        self._floor = self._reserve_bytes

        self._end = self._current.number << _SHIFT
        self._limit = self._end + self._current.size
        self._durable = self._flushing_end = self._end
        self._runs: list[_Run] = []
        self._frames: list[bytes] = []
        self._run_offset = 0
        self._is_flushing = False
        self._waiting: list[Durable] = []
        self._waiting_next: list[Durable] = []
        self._grown = asyncio.Event()
        if recovered.spare is None:
            self._reserve()
        else:
            self._add_spare(recovered.spare)

    @classmethod
    async def open(
        cls, folder: Path, *, segment_bytes: int, reserve_bytes: int, archive_days: int, clock: Clock, ids: Ids
    ) -> "DiskJournal":
        """Lock and recover the folder's journal, and close durably the requests that its last owner left open.

        Raises:
            StartError: another process has it, or the disk has no room, is read-only or fails.
        """
        files = SegmentFiles(folder, segment_bytes)
        try:
            recovered = await asyncio.to_thread(recover_folder, files, clock, ids)
            made = cls(files, recovered, reserve_bytes, archive_days, clock, ids)
            try:
                await made._close_interrupted(recovered.interrupted)
            except BaseException:
                await made.close()
                raise
        except TokenworksError as error:
            raise StartError(error.message) from error
        return made

    @property
    def journal_id(self) -> str:
        """The name under which control keeps its position."""
        return self._journal_id

    @property
    def first_segment(self) -> int:
        """Where this process began to write."""
        return self._first_segment

    @property
    def durable_position(self) -> int:
        """Everything up to this is durable; comparable with what `append` returns."""
        return self._durable

    @property
    def durable_end(self) -> Position:
        """The same as a place in the files."""
        return Position(self._durable >> _SHIFT, self._durable & _OFFSET_MASK)

    @property
    def error(self) -> UnavailableError | None:
        """Why this journal can take nothing any more; its door should end, and recover in a new process."""
        return self._error

    @property
    def is_full(self) -> bool:
        """Whether a new request can be refused for want of room."""
        return self._free - 2 * _SLACK_BYTES < self._floor

    @property
    def open_requests(self) -> int:
        """How many requests have opened here and not closed."""
        return len(self._open)

    def append(self, record: Record) -> int:
        """Buffer a record; see `ports.Journal`. With no room left, progress is dropped: the next one says more."""
        if self._error is not None:
            raise self._error
        frame = journal.encode(record)
        size = len(frame)
        kind = type(record)
        if kind is not Closed:
            kept = size + policy.CLOSING_BYTES_MAX if kind is Opened else 0
            if self._free - size - kept < self._floor:
                if kind is Progress:
                    return self._end
                raise self._make_full_error()
        end = self._end + size
        if end > self._limit:
            end = self._roll() + size
        if kind is Opened:
            self._open[record.request_id] = (self._current.number, kept)
            self._free -= size + kept
        elif kind is Progress:
            self._free -= size
        else:
            self._free += self._open.pop(record.request_id, (0, 0))[1] - size
        self._frames.append(frame)
        self._end = end
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)
        return end

    def when_durable(self, position: int, callback: Durable) -> None:
        """Call `callback` when everything up to `position` is durable; see `ports.Journal`."""
        assert position <= self._end, "a position that no append has returned"
        if position <= self._durable:
            callback(None)
        elif self._error is not None:
            callback(self._error)
        elif position <= self._flushing_end:
            self._waiting.append(callback)
        else:
            self._waiting_next.append(callback)

    async def flush(self) -> None:
        """Return when everything appended so far is durable.

        Raises:
            UnavailableError: the disk failed.
        """
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if future.done():  # the waiting task was cancelled
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(None)

        self.when_durable(self._end, done)
        await future

    async def close(self) -> None:
        """Make everything durable, end the threads and let the folder go. Requests that are open stay open in it.

        Raises:
            UnavailableError: the disk failed; everything is released all the same.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        try:
            await self.flush()
        finally:
            await self._settle_reservation()
            self._writer.stop()
            self._keeper.stop()
            self._error = self._error or UnavailableError(f"the journal {self._files.folder} is closed")
            for segment in (self._current, self._spare):
                if segment is not None:
                    os.close(segment.descriptor)
            os.close(self._lock)

    def segments(self) -> list[int]:
        """Numbers of the segments that may hold records, archived ones too, in order."""
        return sorted({*self._ends, self._durable >> _SHIFT})

    def find_next_segment(self, segment: int) -> int | None:
        """The first later segment that may hold durable records.

        Only up to the durable one: a segment that was left behind may itself still wait for its flush.
        """
        return next((number for number in self.segments() if segment < number <= self._durable >> _SHIFT), None)

    async def read_durable(self, segment: int, offset: int, limit: int) -> bytes:
        """About `limit` bytes from a record's beginning on; see `ports.ShippableJournal`."""
        durable = self.durable_end
        end = durable.offset if segment == durable.segment else self._ends.get(segment, 0)
        if segment > durable.segment or offset >= end:
            return b""
        if end - offset <= limit:
            return await self._keeper.call(partial(self._files.read, segment, offset, end - offset))
        length = min(end - offset, limit + journal.FRAME_BYTES_MAX)

        def read() -> bytes:
            content = self._files.read(segment, offset, length)
            return content[: journal.measure_shipment(content, limit)]

        return await self._keeper.call(read)

    async def wait_grown(self, beyond: Position) -> None:
        """Return when something behind `beyond` is durable."""
        while self.durable_end <= beyond:
            self._grown.clear()
            await self._grown.wait()

    async def archive(self, segment: int) -> None:
        """Put segments before `segment` away; see `ports.ShippableJournal`.

        One in which a request opened that is still open stays, and with it all behind: its progress is in those. A
        request is open until its closing record is durable; in a journal that failed, for ever.
        """
        first_open = min((number for number, _ in self._open.values()), default=segment)
        upto = min(segment, first_open, self._durable >> _SHIFT)
        ends = dict(self._ends)
        with suppress(UnavailableError):
            await self.flush()
        if self._error is not None:
            return

        def work() -> list[int]:
            now_ms = self._clock.now_ms()
            for number in self._files.list_live():
                if number < upto:
                    self._files.archive(number, ends[number], now_ms)
            return self._files.delete_archived(self._archive_days, now_ms)

        for number in await self._keeper.call(work):
            self._ends.pop(number, None)

    async def take_new_id(self) -> None:
        """Be a journal that control has not heard of."""
        journal_id = self._ids.new("journal")
        await self._keeper.call(partial(self._files.write_id, journal_id))
        self._journal_id = journal_id

    async def count_unreadable(self) -> int:
        """How many damaged stretches recovery has found over the journal's life."""
        return await self._keeper.call(self._files.count_unreadable)

    def _flush(self) -> None:
        runs = [*self._runs, _Run(self._current, self._run_offset, self._frames, is_last=False)]
        self._runs, self._frames = [], []
        self._run_offset = self._end & _OFFSET_MASK
        self._flushing_end = self._end
        self._waiting, self._waiting_next = self._waiting_next, []
        self._writer.submit(partial(_write_runs, runs), self._flushed)

    def _flushed(self, _result: None, error: BaseException | None) -> None:
        waiting, self._waiting = self._waiting, []
        if error is not None:
            self._poison(error)
            waiting += self._waiting_next
            self._waiting_next = []
        else:
            self._durable = self._flushing_end
            self._grown.set()
            self._is_flushing = bool(self._frames)
            if self._is_flushing:
                self._flush()
        outcome = self._error if error is not None else None
        for callback in waiting:
            try:
                callback(outcome)
            except Exception as failure:  # noqa: BLE001  # one request's callback must not keep the others waiting
                self._loop.call_exception_handler({"message": "a journal callback failed", "exception": failure})

    def _poison(self, error: BaseException) -> None:
        # After a failed sync the system may drop what it could not write and report success the next time; therefore
        # nothing is tried again here. Source: https://wiki.postgresql.org/wiki/Fsync_Errors
        self._error = UnavailableError(f"the journal {self._files.folder} cannot be written: {error}")
        _logger.critical("%s", self._error.message)

    def _roll(self) -> int:
        """Go over to the spare segment; return the position of its beginning."""
        spare = self._spare
        if spare is None:
            raise self._make_full_error()
        offset = self._end & _OFFSET_MASK
        self._runs.append(_Run(self._current, self._run_offset, self._frames, is_last=True))
        self._frames = []
        self._run_offset = 0
        self._ends[self._current.number] = offset
        self._free -= self._limit - self._end
        self._current = spare
        self._spare = None
        self._floor = self._reserve_bytes
        self._end = spare.number << _SHIFT
        self._limit = self._end + spare.size
        self._reserve()
        return self._end

    def _reserve(self) -> None:
        self._retry = None
        self._keeper.submit(partial(self._files.create, self._current.number + 1), self._reserved)

    def _reserved(self, segment: Segment | None, error: BaseException | None) -> None:
        if segment is not None:
            self._reserve_error = ""
            self._add_spare(segment)
            return
        if not self._reserve_error:
            _logger.error("no room for the next journal file, new requests are refused soon: %s", error)
        self._reserve_error = str(error)
        if not self._is_closed:
            self._retry = self._loop.call_later(RESERVE_RETRY_S, self._reserve)

    def _add_spare(self, segment: Segment) -> None:
        self._spare = segment
        self._free += segment.size
        self._floor = _SLACK_BYTES

    def _make_full_error(self) -> StorageFullError:
        reason = self._reserve_error
        if not reason and self._spare is None:
            reason = "the disk is too slow to keep up; try again"
        if not reason:
            size = self._files.segment_bytes
            reason = f"{len(self._open)} open requests are too many for journal files of {size} bytes; make them larger"
        return StorageFullError(f"usage cannot be recorded: {reason}")

    async def _close_interrupted(self, interrupted: list[Closed]) -> None:
        await self._settle_reservation()
        for closed in interrupted:
            if self._limit - self._end < _SLACK_BYTES:
                await self._settle_reservation()
            self.append(closed)
        await self.flush()

    async def _settle_reservation(self) -> None:
        """Return when the reservation that is under way, if any, has succeeded or failed."""
        await self._keeper.call(lambda: None)


def _write_runs(runs: list[_Run]) -> None:
    for run in runs:
        write_all(run.segment.descriptor, b"".join(run.frames), run.offset)
        sync_data(run.segment.descriptor)
        if run.is_last:
            os.close(run.segment.descriptor)
