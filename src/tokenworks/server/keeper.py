"""Keeps one child of the supervisor running: starts it again when it ends, after a wait that doubles up to a limit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.kit.clock import Clock
from tokenworks.kit.errors import StartError

CANNOT_START = 2
"""Exit code of a child that wrote a sentence about what it lacks."""

_STABLE_MS = 30_000
"""A child that lived this long ended for a new reason: its waits begin anew."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds between an end and the next start."""

    wait_ms_min: int
    wait_ms_max: int

    def after(self, failures: int) -> int:
        """The wait after that many ends in a row."""
        return min(self.wait_ms_max, self.wait_ms_min << min(failures - 1, 32))


class Keeper:
    """Keeps the process of one spec."""

    def __init__(
        self, processes: LocalProcesses, spec: ProcessSpec, waits: Waits, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._processes = processes
        self._spec = spec
        self._waits = waits
        self._clock = clock
        self._say = say

    async def keep(self) -> None:
        """Run until cancelled; the process is left as it is then.

        Raises:
            StartError: its first start ended with a sentence about what it lacks.
        """
        failures = 0
        is_first = True
        while True:
            began_ms = self._clock.monotonic_ms()
            reason = await self._run_once(is_first=is_first)
            is_first = False
            is_stable = self._clock.monotonic_ms() - began_ms >= _STABLE_MS
            failures = 1 if is_stable else failures + 1
            wait_ms = self._waits.after(failures)
            self._say(f"{self._spec.process_id} {reason}; it is started again in {wait_ms} ms")
            await asyncio.sleep(wait_ms / 1000)

    async def _run_once(self, *, is_first: bool) -> str:
        try:
            await self._processes.start(self._spec)
        except StartError as error:
            if is_first:
                raise
            return f"could not be started: {error.message}"
        status = await self._processes.wait(self._spec.process_id)
        assert status is not None, f"{self._spec.process_id} was stopped by somebody else"
        if is_first and status.exit_code == CANNOT_START:
            raise StartError(status.last_line or f"{self._spec.process_id} cannot start; see its log")
        return describe(status)


def describe(status: ProcessStatus) -> str:
    """How it ended, in half a sentence."""
    code = status.exit_code
    assert code is not None
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{how} ({status.last_line})" if status.last_line and code > 0 else how
