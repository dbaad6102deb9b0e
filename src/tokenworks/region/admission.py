"""Admission of requests to the slots of a deployment's replicas: first come, first served. Pure, without clock or I/O.

Invariants: a replica never has more slots taken than it has; a waiter is admitted once; a waiter that wants several
slots (one per choice) blocks those behind it rather than starving.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

from tokenworks.kit.errors import NoCapacityError

Waiter = TypeVar("Waiter")


class Admission(Generic[Waiter]):
    """The slots of one deployment, and the queue before them."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._slots: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._suspended: set[str] = set()
        self._queue: OrderedDict[Waiter, int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return sum(self._taken.values())

    def set_replicas(self, slots: Mapping[str, int]) -> list[tuple[Waiter, str]]:
        """The ready replicas are these, with these slots; return who is admitted by that."""
        self._slots = dict(slots)
        self._suspended &= self._slots.keys()
        self._taken = {name: count for name, count in self._taken.items() if count > 0 or name in self._slots}
        return self._admit()

    def enter(self, waiter: Waiter, slots: int) -> str | None:
        """Take `slots` slots of one replica and return its id, or None: the waiter is in the queue.

        Raises:
            NoCapacityError: the queue is full.
        """
        if not self._queue:
            replica_id = self._choose(slots)
            if replica_id is not None:
                self._taken[replica_id] = self._taken.get(replica_id, 0) + slots
                return replica_id
        if len(self._queue) >= self._waiting_max:
            raise NoCapacityError(f"all slots are taken and {len(self._queue)} requests wait already; try again later")
        self._queue[waiter] = slots
        return None

    def return_first(self, waiter: Waiter, slots: int) -> list[tuple[Waiter, str]]:
        """Put a waiter back before all others (its replica went away before it had said anything)."""
        self._queue[waiter] = slots
        self._queue.move_to_end(waiter, last=False)
        return self._admit()

    def leave(self, waiter: Waiter) -> list[tuple[Waiter, str]]:
        """A waiter gives up; return who is admitted by that (it may have blocked the others)."""
        self._queue.pop(waiter, None)
        return self._admit()

    def release(self, replica_id: str, slots: int) -> list[tuple[Waiter, str]]:
        """Give slots back; return who is admitted by that."""
        left = self._taken.get(replica_id, 0) - slots
        assert left >= 0, f"more slots released than taken on {replica_id}"
        if left or replica_id in self._slots:
            self._taken[replica_id] = left
        else:
            self._taken.pop(replica_id, None)
        return self._admit() if self._queue else []

    def suspend(self, replica_id: str) -> None:
        """Admit nobody to this replica until `resume`: it did not answer a connection."""
        self._suspended.add(replica_id)

    def resume(self) -> list[tuple[Waiter, str]]:
        """End all suspensions; return who is admitted by that."""
        if not self._suspended:
            return []
        self._suspended.clear()
        return self._admit()

    def _admit(self) -> list[tuple[Waiter, str]]:
        admitted: list[tuple[Waiter, str]] = []
        while self._queue:
            waiter, slots = next(iter(self._queue.items()))
            replica_id = self._choose(slots)
            if replica_id is None:
                break
            del self._queue[waiter]
            self._taken[replica_id] = self._taken.get(replica_id, 0) + slots
            admitted.append((waiter, replica_id))
        return admitted

    def _choose(self, slots: int) -> str | None:
        """The replica with the most free slots, if it has enough."""
        best, best_free = None, 0
        for replica_id, total in self._slots.items():
            free = total - self._taken.get(replica_id, 0)
            if free >= slots and free > best_free and replica_id not in self._suspended:
                best, best_free = replica_id, free
        return best
