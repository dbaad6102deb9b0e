"""Shipping: what became durable in a journal is sent to control, in order, until control has it.

Invariants: control alone knows where it stands, and a shipper obeys; nothing is forgotten before control has it; no
failure ends a shipper, it waits longer and tries again. Records are sent at least once and counted once
(`service.py`).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from tokenworks.kit.errors import TokenworksError
from tokenworks.metering.model import START, Position
from tokenworks.metering.ports import FindLeftJournals, OpenLeftJournal, Pause, ShippableJournal, UsageSink

WAIT_MS_MIN = 100
WAIT_MS_MAX = 5_000
"""After a failure a shipper waits this long, at first and at most."""
ADOPT_MS = 60_000
"""How often a door looks for journals of doors that do not run any more."""

_logger = logging.getLogger(__name__)


class Shipper:
    """Ships one journal. `run` it as a task; `drain` before the journal is closed."""

    def __init__(
        self, journal: ShippableJournal, sink: UsageSink, *, interval_ms: int, bytes_max: int, pause: Pause
    ) -> None:
        self._journal = journal
        self._sink = sink
        self._interval_ms = interval_ms
        self._bytes_max = bytes_max
        self._pause = pause
        self._position: Position | None = None
        self._archived = 0
        self._has_met_control = False
        self._is_draining = asyncio.Event()
        self._shipped = asyncio.Condition()

    @property
    def position(self) -> Position | None:
        """Where control stands, as far as this shipper has heard."""
        return self._position

    async def run(self) -> None:
        """Ship for ever. What comes after a quiet time is sent at once; under load, once per interval."""
        wait_ms = WAIT_MS_MIN
        while True:
            try:
                is_behind = await self.ship()
            except Exception as error:  # noqa: BLE001  # whatever it is, the door serves on and the journal keeps
                if wait_ms == WAIT_MS_MIN:
                    _logger.warning("usage is not shipped, it stays in the journal: %s", error)
                self._position = None
                await self._pause(wait_ms)
                wait_ms = min(2 * wait_ms, WAIT_MS_MAX)
                continue
            wait_ms = WAIT_MS_MIN
            if not is_behind:
                await self._wait_for_more()

    async def ship(self) -> bool:
        """Ship once; whether there is more to ship now.

        Raises:
            TokenworksError: control takes nothing; and whatever `UsageSink` raises when control is away.
        """
        position = await self._find_position()
        content = await self._journal.read_durable(position.segment, position.offset, self._bytes_max)
        while not content:
            following = self._journal.find_next_segment(position.segment)
            if following is None:
                await self._stand_at(position)
                return self._journal.durable_end > position
            if following > position.segment + 1:
                gone = (self._journal.journal_id, position.segment + 1, following - 1)
                _logger.error("journal %s: segments %d to %d are gone, control has nothing of them", *gone)
            position = Position(following, 0)
            content = await self._journal.read_durable(following, 0, self._bytes_max)
        reached = await self._sink.send(self._journal.journal_id, position, content)
        if reached == position:
            raise TokenworksError(f"control takes nothing at {position.segment}-{position.offset}")
        await self._stand_at(reached)
        return True

    async def drain(self, timeout_ms: int) -> bool:
        """Ship without delay what is durable now; whether control has it all before `timeout_ms`."""
        goal = self._journal.durable_end
        self._is_draining.set()
        shipped = asyncio.ensure_future(self._wait_shipped(goal))
        late = asyncio.ensure_future(self._pause(timeout_ms))
        try:
            await asyncio.wait({shipped, late}, return_when=asyncio.FIRST_COMPLETED)
            return shipped.done()
        finally:
            self._is_draining.clear()
            await _cancel(shipped, late)

    async def _find_position(self) -> Position:
        if self._position is None:
            position = await self._sink.position(self._journal.journal_id)
            if self._is_of_another_past(position):
                _logger.error("control has more of journal %s than its folder; it is renamed", self._journal.journal_id)
                position = await self._rename()
            self._has_met_control = True
            self._position = position
        return self._position

    def _is_of_another_past(self, position: Position) -> bool:
        """Whether control has what this folder does not: it is an old copy that was put back.

        Under its old name, what comes now would look shipped. Before this process has shipped anything, control can
        have nothing of what it wrote, however much that is by now.
        """
        if self._has_met_control:
            return position > self._journal.durable_end
        return position > Position(self._journal.first_segment, 0)

    async def _rename(self) -> Position:
        await self._journal.take_new_id()
        first = self._journal.find_next_segment(START.segment)
        assert first is not None, "a journal has a segment that it writes to"
        # Segments that the folder has no more were shipped under the old name: the empty shipment passes over them.
        return await self._sink.send(self._journal.journal_id, Position(first, 0), b"")

    async def _stand_at(self, position: Position) -> None:
        async with self._shipped:
            self._position = position
            self._shipped.notify_all()
        if position.segment > self._archived:
            self._archived = position.segment
            await self._journal.archive(position.segment)

    async def _wait_shipped(self, goal: Position) -> None:
        async with self._shipped:
            await self._shipped.wait_for(lambda: self._position is not None and self._position >= goal)

    async def _wait_for_more(self) -> None:
        assert self._position is not None, "a shipment has just succeeded"
        interval = asyncio.ensure_future(self._pause(self._interval_ms))
        draining = asyncio.ensure_future(self._is_draining.wait())
        try:
            await asyncio.wait({interval, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(interval, draining)
        await self._journal.wait_grown(self._position)


async def adopt(
    find_left_journals: FindLeftJournals, make_shipper: Callable[[ShippableJournal], Shipper], pause: Pause
) -> None:
    """Ship, for ever, what doors left behind that do not run any more: each journal to its end, then let it go.

    One at a time, and one that fails keeps no other waiting: it comes again in the next round.
    """
    while True:
        try:
            left = find_left_journals()
        except Exception as error:  # noqa: BLE001  # as in Shipper.run
            _logger.warning("journals that were left behind cannot be looked for: %s", error)
            left = ()
        for open_journal in left:
            try:
                await _ship_left_journal(open_journal, make_shipper, pause)
            except Exception as error:  # noqa: BLE001  # as in Shipper.run
                _logger.warning("a journal that was left behind stays until the next round: %s", error)
        await pause(ADOPT_MS)


async def _ship_left_journal(
    open_journal: OpenLeftJournal, make_shipper: Callable[[ShippableJournal], Shipper], pause: Pause
) -> None:
    journal = await open_journal()
    try:
        shipper = make_shipper(journal)
        wait_ms = WAIT_MS_MIN
        is_behind = True
        while is_behind:
            try:
                is_behind = await shipper.ship()
                wait_ms = WAIT_MS_MIN
            except Exception as error:  # as in Shipper.run, until others have waited long enough
                if wait_ms == WAIT_MS_MAX:
                    raise
                _logger.warning("journal %s waits for control: %s", journal.journal_id, error)
                await pause(wait_ms)
                wait_ms = min(2 * wait_ms, WAIT_MS_MAX)
    finally:
        await journal.close()


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
