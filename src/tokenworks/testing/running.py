"""Starts a real tokenworks for tests: `tokenworks up` as a process, on a free port, with a home of its own.

    with running() as tokenworks:
        client = openai.OpenAI(base_url=f"{tokenworks.url}/v1", api_key=tokenworks.key)

Invariants: nothing of the caller's own tokenworks is read or touched (its `TOKENWORKS_*` variables are dropped); when
the block ends the process is gone, and so is a home that was made here.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tokenworks.client.client import Client
from tokenworks.kit.errors import StartError

START_S_MAX = 120
STOP_S_MAX = 60
_POLL_S = 0.05


@dataclass
class Running:
    """A tokenworks that answers. After `stop` or `kill`, `start` brings it up again on the same home and port."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    port: str = "0"
    process: subprocess.Popen[bytes] | None = None
    _printed_before: int = 0

    @property
    def key(self) -> str:
        """The administrator's key."""
        return (self.home / "admin.key").read_text().strip()

    @property
    def output(self) -> str:
        """What `tokenworks up` has printed so far, over all starts."""
        return self._output_path.read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the CLI, run by a test, finds this tokenworks."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWORKS_")}
        here = {"TOKENWORKS_HOME": str(self.home), **self.settings}
        return {**kept, **here, **({"TOKENWORKS_URL": self.url} if self.url else {})}

    def client(self, key: str | None = None) -> Client:
        """A client with the administrator's key, or another."""
        return Client(self.url, self.key if key is None else key)

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            StartError: it ended instead, or took too long; the message holds what it printed.
        """
        port = self.url.rpartition(":")[2] if self.url else self.port
        with self._output_path.open("ab") as output:
            self._printed_before = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tokenworks.cli.main", "up", "--port", port],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._await_ready()

    def run(self, *arguments: str, key: str | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI against it and return what came out."""
        environment = self.environment if key is None else {**self.environment, "TOKENWORKS_API_KEY": key}
        command = [sys.executable, "-m", "tokenworks.cli.main", *arguments]
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=STOP_S_MAX, check=False
        )

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does, and return its exit code."""
        assert self.process is not None, "it was never started"
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it the hard way (kill -9), as a crash would."""
        assert self.process is not None, "it was never started"
        self.process.kill()
        self.process.wait()

    @property
    def _output_path(self) -> Path:
        return self.home.with_name(f"{self.home.name}.out")

    def _await_ready(self) -> None:
        assert self.process is not None, "it was never started"
        end = time.monotonic() + START_S_MAX
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise StartError(f"tokenworks ended with code {self.process.returncode}:\n{self.output}")
            if b"tokenworks answers at " in self._output_path.read_bytes()[self._printed_before :]:
                self.url = (self.home / "run" / "address").read_text().strip()
                return
            time.sleep(_POLL_S)
        self.kill()
        raise StartError(f"tokenworks was not ready within {START_S_MAX} seconds:\n{self.output}")


@contextmanager
def running(home: Path | None = None, port: str = "0", **settings: str) -> Iterator[Running]:
    """A tokenworks that runs as long as the block: `running(TOKENWORKS_DOORS="2")`.

    Without a port the system chooses one. A given home is kept in the end; without one, a folder with a space in its
    name is made and removed.
    """
    folder = Path(tempfile.mkdtemp(prefix="tokenworks "))
    tokenworks = Running(home or folder / "home", settings, port=port)
    try:
        tokenworks.start()
        yield tokenworks
    finally:
        if tokenworks.process is not None and tokenworks.process.poll() is None:
            tokenworks.stop()
        shutil.rmtree(folder, ignore_errors=True)
