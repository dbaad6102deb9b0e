"""Runs the load generator (`load.c`) and reads its report."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.build import compile_load
from benchmarks.children import BenchmarkError, at_start

_SLACK_SECONDS = 60


@dataclass(frozen=True)
class Load:
    """What one run sends and expects. `bodies` are sent in turn; `chunks` is None where the text is not the mock's."""

    bodies: Sequence[str]
    connections: int = 64
    requests: int | None = None
    seconds: float | None = None
    stagger_ms: int = 0
    cut_after: int | None = None
    status: int = 200
    chunks: int | None = None
    wanted: Sequence[str] = ()
    banned: Sequence[str] = ()
    path: str = "/v1/chat/completions"
    wait_seconds: float = 30
    key: str | None = None

    def arguments(self) -> list[str]:
        """The command line of `load`, without address and bodies."""
        given: dict[str, object] = {
            "--connections": self.connections,
            "--requests": self.requests,
            "--seconds": self.seconds,
            "--stagger-ms": self.stagger_ms,
            "--cut-after": self.cut_after,
            "--status": self.status,
            "--chunks": self.chunks,
            "--path": self.path,
            "--wait-seconds": self.wait_seconds,
            "--key": self.key,
        }
        arguments = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        for text in self.wanted:
            arguments += ["--want", text]
        for text in self.banned:
            arguments += ["--ban", text]
        return arguments


@dataclass(frozen=True)
class Report:
    """What came of it. Latencies are microseconds by percentile name."""

    started: int
    complete: int
    wrong: int
    broken: int
    cut: int
    unanswered: int
    connects: int
    chunks: int
    tokens: int
    bytes: int
    seconds: float
    latency_us: dict[str, int]
    first_content_us: dict[str, int]
    statuses: dict[str, int] = field(default_factory=dict)
    why: str = ""

    @property
    def is_clean(self) -> bool:
        """True when every request that was started came to its good end."""
        return not (self.wrong or self.broken or self.unanswered)


class Loader:
    """Load from one core against one address. `start` lets several run at once."""

    def __init__(self, address: str, *, core: int | None = None, program: Path | None = None) -> None:
        self._address = address
        self._core = core
        self._program = program or compile_load()

    def run(self, load: Load) -> Report:
        """Run it to its end.

        Raises:
            BenchmarkError: it could not run, or an answer was wrong, broken or missing.
        """
        report = self.start(load).finish()
        if not report.is_clean:
            raise BenchmarkError(f"of {self._address}'s answers some were not good: {report}")
        return report

    def start(self, load: Load) -> "Running":
        """Start it and return at once."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as bodies:
            bodies.write("".join(body + "\n" for body in load.bodies))
        process = subprocess.Popen(
            [str(self._program), "--address", self._address, "--bodies", bodies.name, *load.arguments()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=at_start(self._core),  # noqa: PLW1509 - the benchmark has no other thread that could hold a lock
        )
        seconds = (load.seconds or 0) + load.wait_seconds + _SLACK_SECONDS
        return Running(process, Path(bodies.name), seconds + (600 if load.requests else 0))


class Running:
    """A load generator at work."""

    def __init__(self, process: "subprocess.Popen[bytes]", bodies: Path, seconds_max: float) -> None:
        self._process = process
        self._bodies = bodies
        self._seconds_max = seconds_max

    def finish(self) -> Report:
        """Wait for its report, whatever it says.

        Raises:
            BenchmarkError: it died or took too long.
        """
        try:
            out, err = self._process.communicate(timeout=self._seconds_max)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the load generator did not end within {self._seconds_max:.0f} s") from None
        finally:
            self._process.kill()
            self._process.wait()
            self._bodies.unlink(missing_ok=True)
        if self._process.returncode not in (0, 1):
            raise BenchmarkError(f"the load generator failed: {err.decode(errors='replace').strip()}")
        fields: dict[str, Any] = json.loads(out)
        return Report(**fields)
