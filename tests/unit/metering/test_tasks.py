"""Shipping against a journal and a control in memory: nothing is lost, control is obeyed, failures are waited out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest

from tokenworks.kit.errors import StartError, TokenworksError, UnavailableError
from tokenworks.metering.model import START, Position
from tokenworks.metering.ports import FindLeftJournals, OpenLeftJournal, ShippableJournal
from tokenworks.metering.tasks import ADOPT_MS, WAIT_MS_MAX, Shipper, adopt

INTERVAL_MS = 200
BYTES_MAX = 4


class MemoryJournal:
    """Segments of bytes; everything in them is durable."""

    def __init__(self, *segments: bytes) -> None:
        self.journal_id = "journal_1"
        self.first_segment = 1
        self.parts = dict(enumerate(segments, 1))
        self.archived: list[int] = []
        self.is_closed = False
        self.is_unreadable = False
        self._grown = asyncio.Event()

    @property
    def durable_end(self) -> Position:
        last = max(self.parts)
        return Position(last, len(self.parts[last]))

    async def read_durable(self, segment: int, offset: int, limit: int) -> bytes:
        if self.is_unreadable:
            raise UnavailableError("Input/output error")
        return self.parts.get(segment, b"")[offset : offset + limit]

    def find_next_segment(self, segment: int) -> int | None:
        return next((number for number in sorted(self.parts) if number > segment), None)

    async def wait_grown(self, beyond: Position) -> None:
        while self.durable_end <= beyond:
            self._grown.clear()
            await self._grown.wait()

    async def archive(self, segment: int) -> None:
        self.archived.append(segment)

    async def take_new_id(self) -> None:
        self.journal_id += "_again"

    async def close(self) -> None:
        self.is_closed = True

    def grow(self, segment: int, content: bytes) -> None:
        self.parts[segment] = self.parts.get(segment, b"") + content
        self._grown.set()


class MemoryControl:
    """Takes bytes where it stands; can be away."""

    def __init__(self) -> None:
        self.stands: dict[str, Position] = {}
        self.taken: dict[str, dict[int, bytes]] = {}
        self.away: Exception | None = None
        self.is_stubborn = False
        self.calls = 0
        self.passed: list[Position] = []

    async def position(self, journal_id: str) -> Position:
        self.calls += 1
        if self.away:
            raise self.away
        return self.stands.get(journal_id, START)

    async def send(self, journal_id: str, position: Position, content: bytes) -> Position:
        self.calls += 1
        if self.away:
            raise self.away
        stands = self.stands.get(journal_id, START)
        begins_later = position.segment > stands.segment and not position.offset
        if self.is_stubborn or (position != stands and not begins_later):
            return stands
        if not content:
            self.passed.append(position)
        taken = self.taken.setdefault(journal_id, {})
        taken[position.segment] = taken.get(position.segment, b"") + content
        self.stands[journal_id] = Position(position.segment, position.offset + len(content))
        return self.stands[journal_id]


class Pauses:
    """Pauses that end when the test says so; `lengths` are those that were asked for."""

    def __init__(self, on_pause: Callable[[int], None] = lambda _: None) -> None:
        self.lengths: list[int] = []
        self.gate = asyncio.Event()
        self._on_pause = on_pause

    async def __call__(self, milliseconds: int) -> None:
        self.lengths.append(milliseconds)
        self._on_pause(milliseconds)
        await self.gate.wait()
        await asyncio.sleep(0)


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def make_shipper(journal: MemoryJournal, control: MemoryControl, pause: Callable[[int], Awaitable[None]]) -> Shipper:
    return Shipper(journal, control, interval_ms=INTERVAL_MS, bytes_max=BYTES_MAX, pause=pause)


async def test_everything_is_shipped_in_order_over_all_segments() -> None:
    journal, control, pauses = MemoryJournal(b"aaaabbbbc", b"", b"dddde"), MemoryControl(), Pauses()
    shipper = make_shipper(journal, control, pauses)
    task = asyncio.create_task(shipper.run())
    await settle()
    assert control.taken == {"journal_1": {1: b"aaaabbbbc", 3: b"dddde"}}
    assert shipper.position == Position(3, 5)
    assert journal.archived == [1, 3]
    assert pauses.lengths == [INTERVAL_MS], "one batch after the other, then one interval"
    await cancelled(task)


async def test_after_a_quiet_interval_news_go_at_once_and_then_in_batches() -> None:
    journal, control, pauses = MemoryJournal(b"a"), MemoryControl(), Pauses()
    task = asyncio.create_task(make_shipper(journal, control, pauses).run())
    pauses.gate.set()
    await settle()
    pauses.gate.clear()
    calls = control.calls
    journal.grow(1, b"b")
    await settle()
    assert control.taken["journal_1"][1] == b"ab"
    assert control.calls == calls + 1
    for letter in b"cde":
        journal.grow(1, bytes([letter]))
        await settle()
    assert control.calls == calls + 1, "the interval is not over"
    pauses.gate.set()
    await settle()
    assert control.taken["journal_1"][1] == b"abcde"
    assert control.calls == calls + 2
    await cancelled(task)


async def test_control_says_where_it_stands_and_is_obeyed() -> None:
    journal, control, pauses = MemoryJournal(b"aaaabbbb"), MemoryControl(), Pauses()
    shipper = make_shipper(journal, control, pauses)
    assert await shipper.ship()
    control.stands["journal_1"] = START
    control.taken.clear()
    assert await shipper.ship(), "control has lost it all: its answer is where it stands"
    assert shipper.position == START
    assert await shipper.ship()
    assert await shipper.ship()
    assert control.taken["journal_1"] == {1: b"aaaabbbb"}
    assert not await shipper.ship()


@pytest.mark.parametrize("error", [UnavailableError("away"), ConnectionRefusedError(), ValueError("nonsense")])
async def test_while_control_is_away_the_waits_grow_and_nothing_is_lost(error: Exception) -> None:
    journal, control = MemoryJournal(b"aaaab"), MemoryControl()
    control.away = error

    def come_back(_: int) -> None:
        if len(pauses.lengths) == 8:
            control.away = None

    pauses = Pauses(come_back)
    pauses.gate.set()
    task = asyncio.create_task(make_shipper(journal, control, pauses).run())
    await settle()
    assert pauses.lengths[:8] == [100, 200, 400, 800, 1600, 3200, WAIT_MS_MAX, WAIT_MS_MAX]
    assert pauses.lengths[8:] == [INTERVAL_MS]
    assert control.taken == {"journal_1": {1: b"aaaab"}}
    control.away = error
    journal.grow(1, b"c")
    await settle()
    assert pauses.lengths[9] == 100, "after a success the waits begin anew"
    await cancelled(task)


async def test_control_that_takes_nothing_is_not_asked_in_a_hot_loop() -> None:
    journal, control = MemoryJournal(b"a"), MemoryControl()
    control.stands["journal_1"] = Position(1, 0)
    control.is_stubborn = True
    with pytest.raises(TokenworksError, match="control takes nothing at 1-0"):
        await make_shipper(journal, control, Pauses()).ship()


async def test_a_folder_that_was_put_back_from_a_copy_is_shipped_under_a_new_name() -> None:
    journal, control = MemoryJournal(b"ab"), MemoryControl()
    control.stands["journal_1"] = Position(1, 3)
    shipper = make_shipper(journal, control, Pauses())
    assert await shipper.ship()
    assert control.taken == {"journal_1_again": {1: b"ab"}}


@pytest.mark.parametrize(
    ("stands", "name"),
    [
        (START, "journal_1"),
        (Position(6, 2), "journal_1"),
        (Position(7, 0), "journal_1"),
        (Position(7, 1), "journal_1_again"),
        (Position(7, 9), "journal_1_again"),
        (Position(8, 0), "journal_1_again"),
    ],
)
async def test_what_control_has_of_a_process_that_never_shipped_is_of_another_past(
    stands: Position, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal, control = MemoryJournal(), MemoryControl()
    journal.parts = {6: b"ab", 7: b"cdef"}  # those before are shipped and deleted
    journal.first_segment = 7
    control.stands["journal_1"] = stands
    shipper = make_shipper(journal, control, Pauses())
    while await shipper.ship():
        pass
    assert journal.journal_id == name
    assert control.taken[name][7] == b"cdef"
    is_renamed = name != "journal_1"
    assert control.passed == ([Position(6, 0)] if is_renamed else []), "what control has under the old name"
    assert ("are gone" in caplog.text) == (stands == START)


async def test_control_is_not_of_another_past_once_it_was_met() -> None:
    journal, control, pauses = MemoryJournal(b"a"), MemoryControl(), Pauses()
    pauses.gate.set()
    task = asyncio.create_task(make_shipper(journal, control, pauses).run())
    await settle()
    control.away = UnavailableError("away")
    journal.grow(1, b"b")
    await settle()
    control.away = None
    await settle()
    assert (journal.journal_id, control.taken) == ("journal_1", {"journal_1": {1: b"ab"}})
    control.away = UnavailableError("away")
    journal.grow(1, b"c")
    await settle()
    control.stands["journal_1"] = Position(1, 9)  # a copy of the folder runs elsewhere, under the same name
    control.away = None
    await settle()
    assert control.taken["journal_1_again"] == {1: b"abc"}
    await cancelled(task)


async def test_segments_that_are_gone_are_told(caplog: pytest.LogCaptureFixture) -> None:
    journal, control = MemoryJournal(b"a"), MemoryControl()
    journal.parts[4] = b"d"
    shipper = make_shipper(journal, control, Pauses())
    while await shipper.ship():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "journal journal_1: segments 2 to 3 are gone, control has nothing of them"
    ]
    assert control.taken == {"journal_1": {1: b"a", 4: b"d"}}


async def test_draining_does_not_wait_for_the_interval() -> None:
    journal, control, pauses = MemoryJournal(b"a"), MemoryControl(), Pauses()
    shipper = make_shipper(journal, control, pauses)
    task = asyncio.create_task(shipper.run())
    await settle()
    journal.grow(1, b"bcdefghij")
    assert await shipper.drain(1_000)
    assert control.taken["journal_1"][1] == b"abcdefghij"
    assert await shipper.drain(1_000), "nothing is left"
    await cancelled(task)


async def test_draining_ends_in_time_when_control_is_away() -> None:
    journal, control, pauses = MemoryJournal(b"a"), MemoryControl(), Pauses()
    control.away = UnavailableError("away")
    shipper = make_shipper(journal, control, pauses)
    task = asyncio.create_task(shipper.run())
    draining = asyncio.create_task(shipper.drain(1_000))
    await settle()
    assert not draining.done()
    assert 1_000 in pauses.lengths
    pauses.gate.set()
    assert not await draining
    await cancelled(task)


class LeftJournals:
    """What doors left behind: `journals` are opened by name, those in `locked` cannot be."""

    def __init__(self, **parts: bytes) -> None:
        self.journals = {name: MemoryJournal(content) for name, content in parts.items()}
        for name, journal in self.journals.items():
            journal.journal_id = name
        self.locked: set[str] = set()
        self.rounds = 0
        self.opened: list[str] = []

    def __call__(self) -> Sequence[OpenLeftJournal]:
        self.rounds += 1
        return [partial(self._open, name) for name, journal in self.journals.items() if not journal.is_closed]

    async def _open(self, name: str) -> ShippableJournal:
        if name in self.locked:
            raise StartError(f"{name} is used by another process")
        assert all(self.journals[earlier].is_closed for earlier in self.opened), "one at a time"
        self.opened.append(name)
        return self.journals[name]


def start_adopting(find: FindLeftJournals, control: MemoryControl, pauses: Pauses) -> asyncio.Task[None]:
    def make(journal: ShippableJournal) -> Shipper:
        return Shipper(journal, control, interval_ms=INTERVAL_MS, bytes_max=BYTES_MAX, pause=pauses)

    return asyncio.create_task(adopt(find, make, pauses))


async def test_left_journals_are_shipped_to_their_end_and_let_go() -> None:
    left, control, pauses = LeftJournals(one=b"aaaab", two=b"cc"), MemoryControl(), Pauses()
    control.away = UnavailableError("away")
    task = start_adopting(left, control, pauses)
    await settle()
    assert (pauses.lengths, left.opened, left.journals["one"].is_closed) == ([100], ["one"], False)
    control.away = None
    pauses.gate.set()
    await settle()
    assert control.taken == {"one": {1: b"aaaab"}, "two": {1: b"cc"}}
    assert all(journal.is_closed for journal in left.journals.values())
    assert left.opened == ["one", "two"]
    assert pauses.lengths[1:3] == [ADOPT_MS, ADOPT_MS], "and it looks again"
    await cancelled(task)


async def test_a_left_journal_that_fails_keeps_no_other_waiting_and_comes_again() -> None:
    left, control = LeftJournals(locked=b"a", bad=b"b", good=b"c"), MemoryControl()
    left.locked.add("locked")
    left.journals["bad"].is_unreadable = True

    def hold_after_the_round(milliseconds: int) -> None:
        if milliseconds == ADOPT_MS:
            pauses.gate.clear()

    pauses = Pauses(hold_after_the_round)
    pauses.gate.set()
    task = start_adopting(left, control, pauses)
    await settle()
    assert control.taken == {"good": {1: b"c"}}
    assert pauses.lengths == [100, 200, 400, 800, 1600, 3200, ADOPT_MS]
    assert left.journals["bad"].is_closed, "its folder is free"
    left.journals["bad"].is_closed = left.journals["bad"].is_unreadable = False
    left.locked.clear()
    left.opened.clear()
    pauses.gate.set()
    await settle()
    assert control.taken == {"locked": {1: b"a"}, "bad": {1: b"b"}, "good": {1: b"c"}}
    await cancelled(task)


async def test_a_left_journal_that_cannot_be_closed_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    left, control, pauses = LeftJournals(bad=b"b", good=b"c"), MemoryControl(), Pauses()

    async def close() -> None:
        left.journals["bad"].is_closed = True
        raise UnavailableError("the disk failed")

    monkeypatch.setattr(left.journals["bad"], "close", close)
    task = start_adopting(left, control, pauses)
    await settle()
    assert control.taken == {"bad": {1: b"b"}, "good": {1: b"c"}}
    await cancelled(task)


async def test_looking_for_left_journals_goes_on_after_a_failure() -> None:
    left, pauses = LeftJournals(one=b"a"), Pauses()

    def find() -> Sequence[OpenLeftJournal]:
        if not pauses.lengths:
            raise OSError(5, "Input/output error")
        return left()

    control = MemoryControl()
    pauses.gate.set()
    task = start_adopting(find, control, pauses)
    await settle()
    assert control.taken == {"one": {1: b"a"}}
    await cancelled(task)
