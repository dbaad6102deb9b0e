"""Child processes of a benchmark: pinned to a core, announced by address, their CPU time read in nanoseconds.

Every child ends with the benchmark: those of ours watch their stdin, the kernel is asked to end the others.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tokenworks

SOURCE_ROOT = Path(tokenworks.__file__).parents[1]
REPOSITORY = Path(__file__).parents[1]
_ADDRESS_WORD = b"TOKENWORKS_ADDRESS "
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_CPUCLOCK_SCHED = 2


class BenchmarkError(Exception):
    """The measurement cannot be made, or what was measured is wrong; the message says why."""


class Child:
    """A running process. `config` becomes the first line of its stdin, which stays open until `stop`.

    One that `announces` tells its address on stdout (`read_address`); others write there into their log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | None = None,
        config: Mapping[str, object] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        pass_fds: tuple[int, ...] = (),
        announces: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(command[0]).name if command[0] != sys.executable else command[-1]
        self._log = log
        with (log or Path(os.devnull)).open("ab") as log_file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if announces else log_file,
                stderr=log_file,
                cwd=cwd,
                env={**_environment(), **(environment or {})},
                pass_fds=pass_fds,
                preexec_fn=at_start(core),  # noqa: PLW1509 - the benchmark has no other thread that could hold a lock
                start_new_session=True,
            )
        if config is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(config).encode() + b"\n")
            self.process.stdin.flush()

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_address(self) -> str:
        """Wait for the line that announces `host:port`.

        Raises:
            BenchmarkError: the process ended without it.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_ADDRESS_WORD):
                return line[len(_ADDRESS_WORD) :].decode().strip()
        raise BenchmarkError(f"{self.name} ended before it listened: {self.last_words()}")

    def check(self) -> None:
        """Raise BenchmarkError if it has ended."""
        if self.process.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        if self._log is None or not self._log.exists():
            return "it wrote no log"
        return self._log.read_text(errors="replace")[-2000:].strip() or "it said nothing"

    def stop(self, wait_s: float = 15.0) -> int:
        """End it, by force if it must be; return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return self.process.returncode

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def at_start(core: int | None) -> Callable[[], None]:
    """What a child does before it becomes its program: end with us, and stay on one core if asked."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def _environment() -> dict[str, str]:
    """The benchmark's own, without settings of tokenworks that would reach the children, and with our sources."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWORKS_")}
    paths = [str(SOURCE_ROOT), str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def end_well(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark's `main` and exit with its code; SIGTERM and Ctrl-C end it with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU nanoseconds that processes have used: user and system, all threads, ended ones included.

    Source: clock_getcpuclockid(3); the id of a process's CPU clock is made from its pid.
    """
    return sum(time.clock_gettime_ns(((~pid) << 3) | _CPUCLOCK_SCHED) for pid in pids)


def settle(pids: Sequence[int], seconds_max: float = 5.0) -> None:
    """Wait until processes have hardly anything left to do (2 % of a core), so that what they owe is counted."""
    deadline = time.monotonic() + seconds_max
    before = cpu_ns(pids)
    while time.monotonic() < deadline:
        time.sleep(0.25)
        after = cpu_ns(pids)
        if after - before < 5_000_000:
            return
        before = after


def descendants(pid: int) -> list[int]:
    """The process and all its children and their children."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def two_cores() -> tuple[int, int]:
    """The core of the gateway, and the core of everything that drives it.

    Raises:
        BenchmarkError: this process may use only one.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchmarkError("this benchmark needs two cores: one for the gateway, one for the load and the mock")
    return cores[0], cores[1]


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as ext4."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        if len(mount) >= len(best) and path.resolve().is_relative_to(mount):
            best, kind = mount, right.split()[0]
    return kind


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load_average_1m": round(os.getloadavg()[0], 2),
    }
