"""What the door leaves behind: `python -m benchmarks.leak [--requests 10000] [--json FILE]`.

A mix of requests goes through the real door to the mock engine: whole bodies, streams, streams that the client cuts,
engines that die or fail, refused requests, clients that leave half a request. At checkpoints, when all is quiet, it
counts the door's memory, files, sockets, tasks and objects. It fails if more is left than after the warm-up.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import gateways, observed_door
from benchmarks.build import BuildError, compile_load, compile_mock
from benchmarks.children import BenchmarkError, end_well, machine, settle
from benchmarks.door import make_body
from benchmarks.figures import table
from benchmarks.gateways import Gateway
from benchmarks.load import Load, Loader, Report

RSS_GROWTH_MIB_MAX = 16
_QUIET_SECONDS_MAX = 30
_LOOKS = 5
_ESTABLISHED = "01"


@dataclass(frozen=True)
class Part:
    """A share of the mix, of 100, and what must come of it: how many good, cut or broken of `requests`."""

    name: str
    share: int
    load: Load
    good: str = "complete"


def parts() -> tuple[Part, ...]:
    """The mix."""

    def streamed(magic: str) -> str:
        return make_body(f"mock:{magic}", is_streamed=True)

    unknown = json.dumps({"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]})
    negative = make_body("x", is_streamed=True, max_tokens=-1)
    return (
        Part(
            "whole body", 25, Load([make_body("mock:chunks=8", is_streamed=False)], wanted=('"completion_tokens":8',))
        ),
        Part("stream", 30, Load([streamed("chunks=64")], chunks=64, banned=('"timings"', '"usage"'))),
        Part("cut by the client", 25, Load([streamed("chunks=64,pace=5")], cut_after=5), good="cut"),
        Part("cut before a token", 4, Load([streamed("chunks=64,prefill=50")], cut_after=0), good="any"),
        Part("engine dies", 4, Load([streamed("chunks=64,die=9")]), good="any"),
        Part("engine refuses", 4, Load([streamed("status=500")], status=502)),
        Part("wrong key", 2, Load([streamed("chunks=1")], status=401, key="tw-wrong", wanted=('"invalid_api_key"',))),
        Part("unknown model", 2, Load([unknown], status=404, wanted=('"model_not_found"',))),
        Part("invalid JSON", 2, Load(['{"model": '], status=400)),
        Part("wrong value", 2, Load([negative], status=400, wanted=('"max_tokens"',))),
    )


def drive(loader_of: "Loaders", requests: int) -> dict[str, Report]:
    """Send `requests` of the mix, all parts at once.

    Raises:
        BenchmarkError: a part did not end as it must.
    """
    running = []
    for part in parts():
        count = max(requests * part.share // 100, 1)
        fields = {
            **part.load.__dict__,
            "requests": count,
            "connections": min(16, count),
            "key": part.load.key or loader_of.key,
        }
        running.append((part, count, loader_of.loader.start(Load(**fields))))
    reports = {}
    for part, count, load in running:
        report = reports[part.name] = load.finish()
        good = {"complete": report.complete, "cut": report.cut, "any": report.started - report.unanswered}[part.good]
        if good != count:
            raise BenchmarkError(f"{part.name}: of {count} requests {good} ended as they must: {report}")
    leave_half(loader_of.address, max(requests // 100, 1))
    return reports


@dataclass(frozen=True)
class Loaders:
    """Where the load goes."""

    address: str
    key: str
    loader: Loader


def leave_half(address: str, count: int) -> None:
    """Clients that begin a request and leave."""
    host, _, port = address.partition(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nContent-Length: 1000\r\n"
    for number in range(count):
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=5)) as link:
            link.sendall(head[: 10 + number % 40] if number % 2 else head + b"\r\n{")


def look_calmly(gateway: Gateway, run_dir: Path, engine: str) -> dict[str, Any]:
    """The calmest of a few looks: the door's own loops start a task now and then, a leak stays."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(look(gateway, run_dir, engine))
        time.sleep(0.1)
    return min(looks, key=lambda each: (each["tasks"], each["files"]))


def look(gateway: Gateway, run_dir: Path, engine: str) -> dict[str, Any]:
    """Count what the door holds at this moment."""
    (pid,) = [child.pid for child in gateway.children]
    seen = run_dir / observed_door.FILE
    seen.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    deadline = time.monotonic() + 10
    while not seen.exists():
        gateway.children[0].check()
        if time.monotonic() > deadline:
            raise BenchmarkError("the door did not let itself be looked into within 10 s")
        time.sleep(0.02)
    inside = json.loads(seen.read_text())
    files = [os.readlink(link) for link in _links(pid)]
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    with urllib.request.urlopen(f"http://{engine}/mock/stats", timeout=5) as answer:
        mock = json.load(answer)
    return {
        "rss_mib": round(int(resident.split()[1]) / 1024, 1),
        "files": len(files),
        "sockets": sum(name.startswith("socket:") for name in files),
        "clients": _connections_to(int(gateway.address.rpartition(":")[2])),
        "engine_connections": mock["open_connections"] - 1,
        "engine_connects": mock["accepted"],
        "engine_answering": mock["answering"],
        "threads": inside["threads"]["threads"],
        "tasks": sum(inside["tasks"].values()),
        "objects": sum(inside["objects"].values()),
        "inside": inside,
    }


def _links(pid: int) -> list[Path]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            os.readlink(link)
            found.append(link)
    return found


def _connections_to(port: int) -> int:
    """Established TCP connections whose local end is the door's port: clients that are still served."""
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(wanted) and row[3] == _ESTABLISHED for row in rows)


def judge(first: dict[str, Any], last: dict[str, Any], rss_mib_max: float) -> list[str]:
    """What is left behind, in a sentence each. Idle connections to the engine are kept on purpose."""
    found = [f"{name}: {last[name]} are left" for name in ("clients", "engine_answering") if last[name]]
    if last["tasks"] > first["tasks"]:
        found.append(f"tasks: {first['tasks']} became {last['tasks']}: {last['inside']['tasks']}")
    if last["threads"] > first["threads"]:
        found.append(f"threads: {first['threads']} became {last['threads']}")
    mine = [each["files"] - each["engine_connections"] for each in (first, last)]
    if mine[1] > mine[0]:
        found.append(f"files, without idle connections to the engine: {mine[0]} became {mine[1]}")
    for name, count in last["inside"]["objects"].items():
        before = first["inside"]["objects"].get(name, 0)
        idle = last["engine_connections"] - first["engine_connections"]
        if count > before + max(idle, 0) + 8:
            found.append(f"objects: {before} of {name} became {count}")
    if last["rss_mib"] - first["rss_mib"] > rss_mib_max:
        found.append(f"memory: {first['rss_mib']} MiB became {last['rss_mib']} MiB")
    return found


COLUMNS = (
    "requests",
    "rss_mib",
    "files",
    "sockets",
    "clients",
    "engine_connects",
    "engine_connections",
    "engine_answering",
    "threads",
    "tasks",
    "objects",
)


def run(folder: Path, requests: int, checkpoints: int) -> list[dict[str, Any]]:
    """Drive the mix and look at every checkpoint; the first comes after a warm-up."""
    looks = []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(gateways.mock_engine(compile_mock()))
        gateway = stack.enter_context(gateways.door_alone(engine, folder / "home", module="benchmarks.observed_door"))
        loaders = Loaders(gateway.address, gateway.key, Loader(gateway.address, program=compile_load()))
        sent = 0
        step = max(requests // checkpoints, 100)
        for number in range(checkpoints + 1):
            drive(loaders, step)
            sent += step
            settle(gateway.pids, _QUIET_SECONDS_MAX)
            looks.append({"requests": sent, **look_calmly(gateway, folder / "home" / "run", engine)})
            print(f"{'warmed up' if not number else f'{sent} requests'}", file=sys.stderr, flush=True)
        counts = gateways.shipped(folder / "home")
        if counts["damaged"] or counts["opened"] != counts["closed"]:
            raise BenchmarkError(f"the journal is not whole: {counts}")
    return looks


def render(looks: Sequence[dict[str, Any]]) -> str:
    """One row per checkpoint."""
    return table(COLUMNS, [[str(each[name]) for name in COLUMNS] for each in looks])


def main() -> int:
    """Drive, print the table, exit with 1 if something is left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leak", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="after a warm-up of one checkpoint's worth")
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--rss-mib-max", type=float, default=RSS_GROWTH_MIB_MAX, help="growth that is still good")
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    parser.add_argument("--json", type=Path, help="write everything that was seen here")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="tokenworks-leak-", dir=options.folder) as name:
            looks = run(Path(name), options.requests, max(options.checkpoints, 1))
    except (BenchmarkError, BuildError) as error:
        print(f"benchmarks.leak: {error}", file=sys.stderr)
        return 2
    print(render(looks))
    if options.json:
        document = {"benchmark": "leak", "about": machine(), "checkpoints": looks}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    left = judge(looks[0], looks[-1], options.rss_mib_max)
    for sentence in left:
        print(f"left behind: {sentence}")
    return 1 if left else 0


if __name__ == "__main__":
    end_well(main)
