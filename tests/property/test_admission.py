"""Slots are never overbooked, nobody is admitted twice or forgotten, and the queue is first come, first served."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenworks.kit.errors import InvalidRequestError, NoCapacityError
from tokenworks.region.admission import Admission

WAITING_MAX = 5


class AdmissionMachine(RuleBasedStateMachine):
    """Drives one deployment's admission; keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.admission: Admission[int] = Admission(WAITING_MAX)
        self.slots: dict[str, int] = {}
        self.running: dict[int, tuple[str, int]] = {}
        self.waiting: list[tuple[int, int]] = []
        self.next_waiter = 0

    def admitted(self, pairs: list[tuple[int, str]]) -> None:
        for waiter, replica_id in pairs:
            expected, slots = self.waiting.pop(0)
            assert waiter == expected, "not first come, first served"
            self.running[waiter] = (replica_id, slots)

    @rule(slots=st.dictionaries(st.sampled_from("abc"), st.integers(1, 4)))
    def replicas_change(self, slots: dict[str, int]) -> None:
        self.slots = slots
        self.admitted(self.admission.set_replicas(slots))

    @rule(slots=st.integers(1, 4))
    def enter(self, slots: int) -> None:
        waiter = self.next_waiter
        self.next_waiter += 1
        try:
            replica_id = self.admission.enter(waiter, slots)
        except InvalidRequestError:
            assert slots > max(self.slots.values())
        except NoCapacityError:
            assert len(self.waiting) >= WAITING_MAX
        else:
            if replica_id is None:
                self.waiting.append((waiter, slots))
            else:
                assert not self.waiting
                self.running[waiter] = (replica_id, slots)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), comes_back=st.booleans())
    def leave_replica(self, data: st.DataObject, comes_back: bool) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.running)))
        replica_id, slots = self.running.pop(waiter)
        self.admitted(self.admission.release(replica_id, slots))
        if comes_back:
            self.waiting.insert(0, (waiter, slots))
            self.admitted(self.admission.return_first(waiter, slots))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(entry)
        self.admitted(self.admission.leave(entry[0]))

    @rule(replica_id=st.sampled_from("abc"))
    def suspend(self, replica_id: str) -> None:
        self.admission.suspend(replica_id)

    @rule()
    def resume(self) -> None:
        self.admitted(self.admission.resume())

    @invariant()
    def books_agree(self) -> None:
        assert self.admission.waiting == len(self.waiting)
        assert self.admission.taken == sum(slots for _, slots in self.running.values())

    def teardown(self) -> None:
        """With every replica back and nobody staying, everyone is served."""
        self.admitted(self.admission.set_replicas({"a": 4}))
        self.admitted(self.admission.resume())
        while self.running:
            waiter = next(iter(self.running))
            self.admitted(self.admission.release(*self.running.pop(waiter)))
        assert not self.waiting


class NewWorkMachine(AdmissionMachine):
    """While replicas keep their slots, no replica ever has more taken than it has."""

    @rule()
    def replicas_change(self) -> None:
        self.slots = {"a": 3, "b": 4}
        self.admitted(self.admission.set_replicas(self.slots))

    @invariant()
    def never_overbooked(self) -> None:
        for replica_id, total in self.slots.items():
            assert sum(slots for name, slots in self.running.values() if name == replica_id) <= total


AdmissionMachine.TestCase.settings = NewWorkMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestAdmission = AdmissionMachine.TestCase
TestNewWork = NewWorkMachine.TestCase


def test_releasing_what_was_not_taken_is_a_bug() -> None:
    admission: Admission[int] = Admission(1)
    admission.set_replicas({"a": 2})
    assert admission.enter(1, 1) == "a"
    with pytest.raises(AssertionError):
        admission.release("a", 2)
