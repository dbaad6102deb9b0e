"""A cluster, an engine and a clock that do what a test says."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenworks.cluster.model import ProcessSpec, ProcessStatus
from tokenworks.kit.errors import NotFoundError, UnavailableError, UpstreamError
from tokenworks.serving.ports import Load, ReplicaWanted


@dataclass
class ManualClock:
    """Time stands still until a test moves it; `wall_shift_ms` sets the wall clock."""

    time_ms: int = 1_000_000
    wall_shift_ms: int = 0

    def now_ms(self) -> int:
        return self.time_ms + self.wall_shift_ms

    def monotonic_ms(self) -> int:
        return self.time_ms


@dataclass
class FakeProcesses:
    """Processes that are only a list. They announce an address at once, unless told otherwise."""

    listed: dict[str, ProcessStatus] = field(default_factory=dict)
    specs: list[ProcessSpec] = field(default_factory=list)
    refusal: str = ""
    is_away: bool = False
    announces: bool = True
    list_gate: asyncio.Event | None = None

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        if self.refusal:
            raise UnavailableError(self.refusal)
        self.specs.append(spec)
        address = "127.0.0.1:1" if self.announces else None
        status = ProcessStatus(spec.process_id, len(self.specs), 0, None, spec.labels, address)
        self.listed[spec.process_id] = status
        return status

    async def stop(self, process_id: str) -> None:
        self.listed.pop(process_id, None)

    async def list(self) -> tuple[ProcessStatus, ...]:
        if self.is_away:
            raise UnavailableError("cluster.sock cannot be reached")
        seen = tuple(self.listed.values())
        if self.list_gate is not None:
            await self.list_gate.wait()
        return seen

    def end(self, process_id: str, exit_code: int, last_line: str = "") -> None:
        """Let a process end by itself."""
        self.listed[process_id] = replace(self.listed[process_id], exit_code=exit_code, last_line=last_line)


@dataclass
class FakeEngine:
    """An engine that answers, falls silent, or hangs."""

    silence: str = ""
    no_token: str = ""
    hangs: bool = False
    requests_running: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def make_process(self, wanted: ReplicaWanted) -> ProcessSpec:
        config = {"path": str(wanted.model_path), "key": wanted.key}
        return ProcessSpec(wanted.replica_id, ("engine",), config, "engine", labels=wanted.labels)

    async def generate(self, address: str, key: str, timeout_ms: int) -> None:
        self.asked.append("generate")
        if self.no_token:
            raise UpstreamError(self.no_token)
        self.tokens[key] = 1

    async def measure(self, address: str, key: str, timeout_ms: int) -> Load:
        self.asked.append("measure")
        if self.hangs:
            await asyncio.Event().wait()
        if self.silence:
            raise UpstreamError(self.silence)
        return Load(self.requests_running, self.tokens.get(key, 0))


class FakeFiles:
    """One model."""

    async def local_path(self, model: str) -> Path:
        if model != "default/small":
            raise NotFoundError(f"there is no model {model!r}")
        return Path("/models/small.gguf")
