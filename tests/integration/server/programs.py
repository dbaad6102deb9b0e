"""A control and a door of a few lines, and a supervisor in a process of its own that runs them.

The door answers `/readyz` from the socket that it was given. Files in the home steer what they do, and show what came.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]

_HEAD = """
import http.server, json, os, signal, socket, sys, threading, time
from pathlib import Path
from tokenworks.cluster.child import read_config
config = read_config()
home = Path(config["settings"]["home"])
def note(line):
    with open(home / "notes", "a") as file:
        file.write(line + "\\n")
"""

CONTROL = (
    _HEAD
    + """
if (home / "control-fails").exists():
    sys.stderr.write("the database is damaged; restore it from a backup\\n"); sys.stderr.flush(); os._exit(2)
def leave(*_):
    note("control stops"); os._exit(0)
signal.signal(signal.SIGTERM, leave)
note("control %d %s" % (os.getpid(), Path.cwd().name))
if (home / "replica").exists() and not (home / "asked").exists():
    (home / "asked").touch()
    program = (
        "import os, signal, threading\\n"
        "from tokenworks.cluster.child import read_config\\n"
        "read_config()\\n"
        "open('../notes', 'a').write('replica %d\\\\n' % os.getpid())\\n"
        "def leave(*_):\\n"
        "    open('../notes', 'a').write('replica stops\\\\n'); os._exit(0)\\n"
        "signal.signal(signal.SIGTERM, leave)\\n"
        "while True: threading.Event().wait(1)\\n"
    )
    spec = {"process_id": "r", "argv": [sys.executable, "-c", program], "config": {}, "log_name": "r"}
    one = socket.socket(socket.AF_UNIX); one.connect("cluster.sock")
    one.sendall(json.dumps({"call": "start", "spec": spec}).encode() + b"\\n"); one.recv(65536); one.close()
while True: time.sleep(0.05)
"""
)

DOOR = (
    _HEAD
    + """
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        is_ready = not (home / "not-ready").exists()
        body = json.dumps({"error": {"message": "the model is being loaded"}, "pid": os.getpid()}).encode()
        self.send_response(200 if is_ready else 503)
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
listener = socket.socket(fileno=config["listen_fd"])
listener.setblocking(True)
server = http.server.HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
server.socket.close(); server.socket = listener
if (home / "door-fails").exists():
    sys.stderr.write("the journal failed\\n"); sys.stderr.flush(); os._exit(4)
def leave(*_):
    if not (home / "stubborn").exists():
        note("door stops"); os._exit(0)
signal.signal(signal.SIGTERM, leave)
note("door %d index %d key %d" % (os.getpid(), config["door"], len(config["region_key"])))
server.serve_forever()
"""
)

_UP = """
import asyncio, sys
from pathlib import Path
from tokenworks.cli.output import drop_stdout
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import TokenworksError
from tokenworks.server.supervisor import Programs, run
from tests.integration.server.programs import CONTROL, DOOR
programs = Programs((sys.executable, "-c", CONTROL), (sys.executable, "-c", DOOR))
def tell(ready):
    try:
        print(ready.address, ready.key_path.name, ready.model, flush=True)
    except OSError:
        drop_stdout()
        raise
try:
    sys.exit(asyncio.run(run(Settings(), tell, programs)))
except TokenworksError as error:
    sys.exit("SENTENCE " + error.message)
"""


class Up:
    """`tokenworks up` as a process, with small children."""

    def __init__(self, home: Path, port: int = 0, **settings: str) -> None:
        self.home = home
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "TOKENWORKS_HOME": str(home),
            "TOKENWORKS_PORT": str(port),
            "TOKENWORKS_SERVING__RESTART_WAIT_MS_MIN": "50",
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None

    def prepare(self) -> None:
        """Make the home, so that files in it can steer the children."""
        self.home.mkdir()
        (self.home / "lock").touch()

    async def start(self, stdout: int = asyncio.subprocess.PIPE) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _UP, env=self._environment,
            stdout=stdout, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def until_ready(self) -> str:
        """Return the address that it answers at."""
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            line = (await self.process.stdout.readline()).decode()
        assert line, await self.error()
        address, key_name, model = line.split()
        async with asyncio.timeout(20):
            while not self.pids(
                "control"
            ):  # The small door is ready without it; a test may stop it as soon as it runs.
                await asyncio.sleep(0.01)
        assert (key_name, model) == ("admin.key", "smollm2-135m-instruct")
        return address.removeprefix("http://")

    async def error(self) -> str:
        """Return what it said until its end."""
        assert self.process is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            said = (await self.process.stderr.read()).decode()
            await self.process.wait()
        return said

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.end()

    async def end(self) -> int:
        """Wait for its end; return its code."""
        assert self.process is not None
        async with asyncio.timeout(20):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()

    def notes(self) -> list[str]:
        """Return what its children have told."""
        path = self.home / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def pids(self, kind: str) -> list[int]:
        """Return the numbers of all children of that kind so far."""
        return [int(line.split()[1]) for line in self.notes() if line.startswith(f"{kind} ") and "stops" not in line]
