"""What a request and a chunk cost at the door, beside nginx: `python -m benchmarks.door [--short] [--json FILE]`.

The gateway has one core, the mock engine and the load another. Both gateways get the same requests and must give whole,
right answers; they are measured in turn, several rounds, by the CPU time of their processes (all threads, the journal's
included). nginx passes on what the engine says to a plain client. The door asks the engine for counts, reads them, cuts
them out, keeps a durable journal and ships it. Targets: DESIGN §5.
"""

import argparse
import contextlib
import itertools
import json
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import gateways
from benchmarks.build import BuildError, compile_load, compile_mock
from benchmarks.children import BenchmarkError, cpu_ns, end_well, file_system, machine, settle, two_cores
from benchmarks.figures import Figure, per_chunk, show, table
from benchmarks.gateways import MODEL, Gateway
from benchmarks.load import Load, Loader, Report

CHUNKS = 64
PACE_MS = 10
PACED_STREAMS = 256
REQUEST_BYTES = 400
TARGETS = {"request": 5.0, "chunk": 1.5}
GATEWAYS = {"door": "tokenworks door", "control": "door + control"}
SETTLE_SECONDS_MAX = 60.0
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Case:
    """One kind of load. `chunks` are the engine's content chunks per answer."""

    name: str
    chunks: int
    is_streamed: bool = True
    connections: int = 64
    magic: str = ""

    def load(self, gateway: Gateway, seconds: float) -> Load:
        """The load on one gateway."""
        words = "".join(f" w{number}" for number in range(self.chunks))
        return Load(
            bodies=[make_body(f"mock:chunks={self.chunks}{self.magic}", is_streamed=self.is_streamed)],
            connections=self.connections,
            seconds=seconds,
            stagger_ms=PACE_MS if self.magic else 0,
            chunks=self.chunks if self.is_streamed else None,
            wanted=() if self.is_streamed else (f'"content":"{words}"', f'"completion_tokens":{self.chunks}'),
            banned=gateway.banned if self.is_streamed else (),
            key=gateway.key,
        )


CASES = (
    Case("plain", 1, is_streamed=False),
    Case("plain_long", CHUNKS, is_streamed=False),
    Case("stream_1", 1),
    Case("stream_64", CHUNKS),
    # Both hold a stream open for as long; only the number of chunks differs.
    Case("paced_1", 1, connections=PACED_STREAMS, magic=f",prefill={PACE_MS * (CHUNKS - 1)}"),
    Case("paced_64", CHUNKS, connections=PACED_STREAMS, magic=f",pace={PACE_MS}"),
    Case("latency", 1, is_streamed=False, connections=1),
    Case("latency_stream", 1, connections=1),
)


@dataclass(frozen=True)
class Sample:
    """One case, one gateway, one round."""

    cpu_us: float
    """Per answer."""
    busy: float
    """Share of its core that the gateway used while it was loaded."""
    report: Report


Samples = dict[str, list[Sample]]
"""By case."""


def make_body(text: str, *, is_streamed: bool, **fields: object) -> str:
    """A chat request of `REQUEST_BYTES` bytes; `mock:` inside its text steers the mock."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": ""}], **fields}
    if is_streamed:
        body["stream"] = True
    filler = REQUEST_BYTES - len(json.dumps(body)) - len(text) - 1
    body["messages"][0]["content"] = f"{'x' * max(filler, 0)} {text}"
    return json.dumps(body)


def measure(gateway: Gateway, case: Case, loader: Loader, seconds: float) -> Sample:
    """Load a gateway for a while and see what it cost, work that it does afterwards included.

    Raises:
        BenchmarkError: an answer was not good, or no answer came.
    """
    pids = gateway.pids
    settle(pids, SETTLE_SECONDS_MAX)
    before, begun = cpu_ns(pids), time.monotonic()
    report = loader.run(case.load(gateway, seconds))
    loaded = cpu_ns(pids) - before
    elapsed = time.monotonic() - begun
    settle(pids, SETTLE_SECONDS_MAX)
    used = cpu_ns(gateway.pids) - before
    if not report.complete:
        raise BenchmarkError(f"{gateway.name} answered nothing in {seconds} s of {case.name}")
    return Sample(used / 1000 / report.complete, loaded / 1e9 / elapsed, report)


def choose(kinds: dict[str, Gateway], case: Case) -> Gateway:
    """Nginx is there twice: buffering for whole bodies, not for streams; of the door there is one."""
    return kinds["stream" if case.is_streamed else "plain"]


def rows_of(results: dict[str, Samples]) -> dict[str, dict[str, Figure]]:
    """The figures of each gateway by the name of their row."""
    rows: dict[str, dict[str, Figure]] = {}
    for name, samples in results.items():
        cost = {case: Figure(tuple(sample.cpu_us for sample in of_case)) for case, of_case in samples.items()}
        rows[name] = {
            "request, 1 token": cost["plain"],
            f"request, {CHUNKS} tokens": cost["plain_long"],
            "stream of 1 chunk": cost["stream_1"],
            f"stream of {CHUNKS} chunks": cost["stream_64"],
            "chunk, burst": per_chunk(cost["stream_64"], cost["stream_1"], CHUNKS),
            "chunk, paced": per_chunk(cost["paced_64"], cost["paced_1"], CHUNKS),
            "p50 at 1 connection": _latency(samples["latency"], "p50"),
            "p99 at 1 connection": _latency(samples["latency"], "p99"),
            "p50 streamed at 1 connection": _latency(samples["latency_stream"], "p50"),
        }
    return rows


def _latency(samples: Sequence[Sample], name: str) -> Figure:
    return Figure(tuple(float(sample.report.latency_us[name]) for sample in samples))


TARGET_OF = {"request, 1 token": "request", "chunk, burst": "chunk", "chunk, paced": "chunk"}


def render(rows: dict[str, dict[str, Figure]]) -> str:
    """The table: microseconds, ratios to nginx, targets."""
    others = [name for name in rows if name != "nginx"]
    header = ["us", "nginx", *(cell for name in others for cell in (name, "x nginx")), "target x"]
    lines = []
    for row, yardstick in rows["nginx"].items():
        cells = [row, show(yardstick)]
        for name in others:
            cells += [show(rows[name][row]), show(rows[name][row].over(yardstick), 2)]
        target = TARGET_OF.get(row)
        lines.append([*cells, f"<= {TARGETS[target]:g}" if target else ""])
    return table(header, lines)


def misses(rows: dict[str, dict[str, Figure]]) -> list[str]:
    """What is over its target, in a sentence each: the door by itself, by the median of its ratios."""
    found = []
    for row, target in TARGET_OF.items():
        ratio = rows["tokenworks door"][row].over(rows["nginx"][row]).median
        if ratio > TARGETS[target]:
            found.append(f"{row}: {ratio:.2f} x nginx, the target is {TARGETS[target]:g} x")
    return found


@contextlib.contextmanager
def all_gateways(folder: Path, names: Sequence[str]) -> Iterator[dict[str, dict[str, Gateway]]]:
    """Start the mock and every gateway that is asked for."""
    core, other = two_cores()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(gateways.mock_engine(compile_mock(), other))
        started: dict[str, dict[str, Gateway]] = {}
        started["nginx"] = {
            "plain": stack.enter_context(gateways.nginx(engine, folder / "nginx-plain", core, buffering=True)),
            "stream": stack.enter_context(gateways.nginx(engine, folder / "nginx-stream", core, buffering=False)),
        }
        makers: dict[str, Callable[[], contextlib.AbstractContextManager[Gateway]]] = {
            "door": lambda: gateways.door_alone(engine, folder / "door", core, other),
            "control": lambda: gateways.door_and_control(engine, folder / "control", core),
        }
        for name in names:
            gateway = stack.enter_context(makers[name]())
            started[gateway.name] = {"plain": gateway, "stream": gateway}
        yield started


def run(folder: Path, rounds: int, seconds: float, names: Sequence[str]) -> dict[str, Samples]:
    """Measure every case on every gateway, in turn, round by round."""
    _, other = two_cores()
    program = compile_load()
    results: dict[str, Samples] = {}
    answered: Counter[str] = Counter()
    with all_gateways(folder, names) as started:
        for number in range(rounds + 1):
            # The first round only warms up: connections, caches, the interpreter's specialised code.
            is_warm_up = number == 0
            for case, (name, kinds) in itertools.product(CASES, started.items()):
                gateway = choose(kinds, case)
                loader = Loader(gateway.address, core=other, program=program)
                sample = measure(gateway, case, loader, min(seconds, 0.5) if is_warm_up else seconds)
                answered[name] += sample.report.complete
                if not is_warm_up:
                    results.setdefault(name, {}).setdefault(case.name, []).append(sample)
            print("warmed up" if is_warm_up else f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for name in names:
            gateway = started[GATEWAYS[name]]["plain"]
            settle(gateway.pids, SETTLE_SECONDS_MAX)
            check_records(folder / name, answered[gateway.name])
    return results


def check_records(home: Path, answered: int) -> None:
    """See that what was measured is the real thing: as many records, or usage rows, as answers.

    Raises:
        BenchmarkError: there are more or fewer.
    """
    database = home / "tokenworks.db"
    if database.exists():
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM usage").fetchone()
    else:
        counts = gateways.shipped(home)
        found = counts["closed"]
        if counts["damaged"] or counts["opened"] != counts["closed"]:
            raise BenchmarkError(f"the journal is not whole: {counts}")
    if found != answered:
        raise BenchmarkError(f"{answered} requests were answered, and {found} are on record")


def as_json(results: dict[str, Samples], rows: dict[str, dict[str, Figure]], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    yardstick = rows["nginx"]
    return {
        "benchmark": "door",
        "about": about,
        "targets": TARGETS,
        "figures_us": {name: {row: figure.as_json() for row, figure in of.items()} for name, of in rows.items()},
        "ratios": {
            name: {row: figure.over(yardstick[row]).as_json() for row, figure in of.items()}
            for name, of in rows.items()
            if name != "nginx"
        },
        "samples": {
            name: {
                case: [
                    {
                        "cpu_us": s.cpu_us,
                        "busy": s.busy,
                        "complete": s.report.complete,
                        "latency_us": s.report.latency_us,
                    }
                    for s in of_case
                ]
                for case, of_case in samples.items()
            }
            for name, samples in results.items()
        },
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.door", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is measured on each gateway")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement loads")
    parser.add_argument(
        "--short", action="store_true", help="two rounds of half a second: for trying it out, not for figures"
    )
    parser.add_argument("--folder", type=Path, help="where the journal is written; it must be a real disk")
    parser.add_argument(
        "--gateways", nargs="*", choices=("door", "control"), default=["door", "control"], help="beside nginx"
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser.parse_args()


def main() -> int:
    """Measure, print the table, write the JSON."""
    options = parse_arguments()
    rounds, seconds = (2, 0.5) if options.short else (max(options.rounds, 1), options.seconds)
    names = tuple(options.gateways)
    try:
        with tempfile.TemporaryDirectory(prefix="tokenworks-bench-", dir=options.folder) as name:
            disk = file_system(Path(name))
            if disk in MEMORY_FILE_SYSTEMS:
                raise BenchmarkError(
                    f"{name} is on {disk}, where fdatasync costs nothing; name a folder on a disk by --folder"
                )
            about = {
                **machine(),
                "file_system": disk,
                "rounds": rounds,
                "seconds": seconds,
                "request_bytes": REQUEST_BYTES,
            }
            results = run(Path(name), rounds, seconds, names)
    except (BenchmarkError, BuildError) as error:
        print(f"benchmarks.door: {error}", file=sys.stderr)
        return 2
    rows = rows_of(results)
    print(f"{about['cpu']}, {about['kernel']}; the journal is on {disk}, with fdatasync")
    print(f"median (lowest-highest) of {rounds} rounds\n")
    print(render(rows))
    if options.json:
        options.json.write_text(json.dumps(as_json(results, rows, about), indent=1) + "\n")
    missed = misses(rows) if "door" in names else []
    for sentence in missed:
        print(f"missed: {sentence}")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    end_well(main)
