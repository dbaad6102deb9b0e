"""The gateways that are measured: nginx, and the door by itself or with its control.

Each is a context manager that starts it on one core in front of a mock engine, and ends it.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.children import BenchmarkError, Child, descendants
from tokenworks.kit.config import Settings, read_settings
from tokenworks.region.model import Snapshot, SnapshotDeployment, SnapshotKey, SnapshotReplica

MODEL = "smollm2-135m-instruct"
KEY = "tw-benchmark-key-of-the-usual-length-0123456789"
_REGION_KEY = "benchmark-region-key-of-the-usual-length"
_READY_SECONDS_MAX = 60


@dataclass
class Gateway:
    """A running gateway: where it listens, whose CPU time is its own, and what its streams must not hold."""

    name: str
    address: str
    children: list[Child]
    banned: tuple[str, ...] = ()
    key: str = KEY

    @property
    def pids(self) -> list[int]:
        """Everything whose CPU time counts."""
        for child in self.children:
            child.check()
        return [pid for child in self.children for pid in descendants(child.pid)]


@contextlib.contextmanager
def mock_engine(program: Path, core: int | None = None) -> Iterator[str]:
    """A mock engine; its address."""
    with Child([str(program), "--watch-stdin"], core=core, config={}, announces=True) as child:
        yield child.read_address()


_NGINX = """\
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream engine {{ server {engine}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering {buffering};
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(engine: str, folder: Path, core: int, *, buffering: bool) -> Iterator[Gateway]:
    """Nginx with one worker in front of the engine. Buffering is right for whole bodies and wrong for streams.

    Raises:
        BenchmarkError: nginx is not installed or does not start.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BenchmarkError(
            "nginx is the yardstick and is not installed; on Debian or Ubuntu: sudo apt-get install nginx-light"
        )
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    text = _NGINX.format(engine=engine, port=port, user=user, buffering="on" if buffering else "off")
    (folder / "nginx.conf").write_text(text)
    command = [program, "-e", "stderr", "-p", f"{folder}/", "-c", "nginx.conf"]
    with Child(command, core=core, log=folder / "log") as child:
        gateway = Gateway("nginx", f"127.0.0.1:{port}", [child])
        _wait_ready(gateway, "/health")
        yield gateway


@contextlib.contextmanager
def door_alone(
    engine: str,
    home: Path,
    core: int | None = None,
    control_core: int | None = None,
    *,
    module: str = "tokenworks.server.door",
) -> Iterator[Gateway]:
    """The door with its journal on, shipping to a control that only counts, whose CPU time is not the door's."""
    settings = _settings(home)
    config = {"snapshot": msgspec.to_builtins(_snapshot(engine)), "path": "control.sock"}
    command = [sys.executable, "-m", "benchmarks.fake_control"]
    with Child(command, core=control_core, config=config, cwd=settings.run_dir, log=home / "control.log") as control:
        _wait_for_file(settings.run_dir / "control.sock", control)
        with _door(settings, core, module) as gateway:
            yield gateway


@contextlib.contextmanager
def door_and_control(engine: str, home: Path, core: int) -> Iterator[Gateway]:
    """The door and its real control, shipping into the real database, on one core; the replica is the mock."""
    settings = _settings(home)
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(
            Child(
                [sys.executable, "-m", "benchmarks.fake_supervisor"],
                config={"engine": engine, "path": "cluster.sock"},
                cwd=settings.run_dir,
                log=settings.log_dir / "supervisor.log",
            )
        )
        _wait_for_file(settings.run_dir / "cluster.sock", supervisor)
        control = stack.enter_context(
            Child(
                [sys.executable, "-m", "tokenworks.server.control"],
                core=core,
                config={"settings": settings.model_dump(mode="json"), "region_key": _REGION_KEY},
                cwd=settings.run_dir,
                log=settings.log_dir / "control.log",
            )
        )
        _wait_for_file(settings.run_dir / "control.sock", control)
        gateway = stack.enter_context(_door(settings, core, "tokenworks.server.door"))
        gateway.name = "door + control"
        gateway.children.append(control)
        gateway.key = (home / "admin.key").read_text().strip()
        yield gateway


def shipped(home: Path) -> dict[str, int]:
    """What `door_alone`'s control has counted so far."""
    status, body = _get_unix(_settings(home).run_dir / "control.sock", "/bench/shipped")
    if status != 200:
        raise BenchmarkError(f"the stand-in for control answered {status}")
    counts: dict[str, int] = json.loads(body)
    return counts


def _settings(home: Path) -> Settings:
    settings = read_settings(home=home, port=0, doors=1, database_url="", blob_url="", serving={"slots": 256})
    for folder in (settings.home, settings.run_dir, settings.journal_dir, settings.log_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings


def _snapshot(engine: str) -> Snapshot:
    host, _, port = engine.partition(":")
    replica = SnapshotReplica(replica_id="rep_mock", host=host, port=int(port), key="mock", slots=4096)
    key = SnapshotKey(
        key_sha256=sha256(KEY.encode()).hexdigest(),
        key_id="key_benchmark",
        organization="default",
        project="default",
        scopes=("admin", "inference", "hub:read", "hub:write"),
    )
    deployment = SnapshotDeployment(
        name=MODEL,
        aliases=("default/SmolLM2-135M-Instruct",),
        engine="llamacpp",
        context_tokens=2048,
        output_tokens_max=2048,
        slots=4096,
        created_at_s=1_700_000_000,
        owner="default",
        is_ready=True,
        reason="",
        replicas=(replica,),
    )
    return Snapshot(etag="benchmark", made_at_ms=time.time_ns() // 1_000_000, keys=(key,), deployments=(deployment,))


@contextlib.contextmanager
def _door(settings: Settings, core: int | None, module: str) -> Iterator[Gateway]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.set_inheritable(True)
    config: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "region_key": _REGION_KEY,
        "listen_fd": listener.fileno(),
        "door": 0,
    }
    with listener:
        child = Child(
            [sys.executable, "-m", module],
            core=core,
            config=config,
            cwd=settings.run_dir,
            log=settings.log_dir / "door.log",
            pass_fds=(listener.fileno(),),
        )
        with child:
            host, port = listener.getsockname()
            gateway = Gateway("tokenworks door", f"{host}:{port}", [child], banned=('"timings"', '"usage"'))
            _wait_ready(gateway, "/readyz")
            yield gateway


def _wait_ready(gateway: Gateway, path: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    reason = "no answer"
    while time.monotonic() < deadline:
        for child in gateway.children:
            child.check()
        try:
            connection = http.client.HTTPConnection(gateway.address, timeout=2)
            connection.request("GET", path)
            answer = connection.getresponse()
            reason = f"{answer.status} {answer.read()[:500]!r}"
            connection.close()
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            reason = repr(error)
        time.sleep(0.05)
    raise BenchmarkError(f"{gateway.name} was not ready within {_READY_SECONDS_MAX} s: {reason}")


def _wait_for_file(path: Path, owner: Child) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while not path.exists():
        owner.check()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{owner.name} did not open {path.name}")
        time.sleep(0.02)


def _get_unix(path: Path, target: str) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        # A socket's name must be short, a home's need not be: go there by its folder.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            link.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        link.sendall(f"GET {target} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body
