"""A process as the cluster sees it: what to run, and what became of it.

A child gets its configuration (secrets included) as one JSON line on stdin, which then stays open: end of file means
that the parent is gone, and the child exits. Nothing secret stands in arguments or environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run. `labels` travel with the process, so that its owner recognizes it after a restart of its own."""

    process_id: str
    argv: tuple[str, ...]
    config: Mapping[str, object]
    """Written to the child's stdin as one JSON line."""
    log_name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_ms_max: int = 10_000
    pass_fds: tuple[int, ...] = ()
    """Descriptors of the parent that the child inherits under the same numbers; they cannot travel."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What became of it. `exit_code` is None while it runs; negative is the signal that ended it."""

    process_id: str
    pid: int
    started_at_ms: int
    exit_code: int | None
    labels: Mapping[str, str]
    address: str | None
    """`host:port`, once the child has announced it."""
    last_line: str = ""
    """The last line that it wrote to its log: after a failure, the reason."""


class StartProcess(msgspec.Struct, frozen=True, tag="start", tag_field="call", forbid_unknown_fields=True):
    """Over the wire: start this."""

    spec: ProcessSpec


class StopProcess(msgspec.Struct, frozen=True, tag="stop", tag_field="call", forbid_unknown_fields=True):
    """Over the wire: stop this."""

    process_id: str


class ListProcesses(msgspec.Struct, frozen=True, tag="list", tag_field="call", forbid_unknown_fields=True):
    """Over the wire: list all; or those, too, that can be looked at but neither started nor stopped from here."""

    with_others: bool = False


ProcessCall = StartProcess | StopProcess | ListProcesses


class ProcessAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Over the wire: what came of a call. `error` is empty when it succeeded."""

    error: str = ""
    processes: tuple[ProcessStatus, ...] = ()
