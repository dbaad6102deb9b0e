"""What the door takes from an engine: `python -m benchmarks.engine [--short] [--json FILE]`.

A whole tokenworks with a real llama.cpp replica, beside a llama.cpp by itself: the same model, prompts, lengths and
client, in turn, at 1, 4 and 16 streams. The engine alone runs at its own best settings (the number of threads that is
fastest here), streams to the client directly and writes no counts into its chunks. Target: DESIGN §5.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.build import BuildError, compile_load
from benchmarks.children import BenchmarkError, Child, cpu_ns, descendants, end_well, machine
from benchmarks.figures import Figure, interval, show, table
from benchmarks.load import Load, Loader, Report
from tokenworks.hub.adapters.packaged import PackagedModel
from tokenworks.kit.errors import StartError
from tokenworks.testing.running import running

MODEL = "smollm2-135m-instruct"
STREAMS = (1, 4, 16)
SLOTS = 16
CONTEXT_TOKENS = 2048
TARGET = 0.98
_READY_SECONDS_MAX = 120
_PASSIVE = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Side:
    """One of the two: where it listens and whose CPU time it takes."""

    name: str
    loader: Loader
    key: str
    pid: int


@dataclass(frozen=True)
class Sample:
    """One side, one number of streams, one round."""

    tokens_per_second: float
    cpu_ms_per_token: float
    report: Report


def bodies(streams: int, mark: str, tokens: int) -> list[str]:
    """A prompt per stream. The mark comes first, so that no cache of an earlier round helps."""
    return [
        json.dumps(
            {
                "model": MODEL,
                "messages": [
                    {"role": "user", "content": f"Round {mark}, part {number}. Tell me a long story of the sea."}
                ],
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        for number in range(streams)
    ]


def measure(side: Side, streams: int, mark: str, tokens: int) -> Sample:
    """All streams once, from the first request to the last token.

    Raises:
        BenchmarkError: an answer was not good, or not as long as it was asked to be.
    """
    pids = descendants(side.pid)
    before = cpu_ns(pids)
    load = Load(bodies(streams, mark, tokens), connections=streams, requests=streams, wait_seconds=300, key=side.key)
    report = side.loader.run(load)
    used = cpu_ns(pids) - before
    if report.tokens != streams * tokens:
        raise BenchmarkError(f"{side.name} gave {report.tokens} tokens, not {streams} x {tokens}")
    return Sample(report.tokens / report.seconds, used / 1e6 / report.tokens, report)


@contextlib.contextmanager
def engine_alone(folder: Path, threads: int) -> Iterator[Side]:
    """A llama.cpp of its own."""
    config = {
        "model_path": str(PackagedModel().find()),
        "model_name": MODEL,
        "slots": SLOTS,
        "context_tokens": CONTEXT_TOKENS,
        "threads": threads,
    }
    command = [sys.executable, "-m", "benchmarks.engine_alone"]
    child = Child(command, config=config, log=folder / f"alone-{threads}.log", announces=True, environment=_PASSIVE)
    with child:
        address = child.read_address()
        _wait_ready(address, child)
        yield Side("engine alone", Loader(address, program=compile_load()), "unused", child.pid)


def _wait_ready(address: str, child: Child) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline:
        child.check()
        try:
            with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise BenchmarkError(f"the engine alone was not ready within {_READY_SECONDS_MAX} s")


def choose_threads(folder: Path, tokens: int) -> int:
    """The number of threads with which the engine alone is fastest on this machine, at the most streams."""
    cores = len(os.sched_getaffinity(0))
    speeds = {}
    for threads in sorted({max(cores // 2, 1), max(cores - 1, 1), cores}):
        with engine_alone(folder, threads) as side:
            measure(side, SLOTS, "warm", 8)
            speeds[threads] = measure(side, SLOTS, "choose", tokens).tokens_per_second
    print(f"the engine alone, tokens/s by threads: {speeds}", file=sys.stderr, flush=True)
    return max(speeds, key=lambda threads: speeds[threads])


Samples = dict[int, dict[str, list[Sample]]]
"""By streams, by side."""


def run(folder: Path, rounds: int, tokens: int) -> tuple[Samples, int]:
    """Measure both sides in turn, each round in the other order."""
    threads = choose_threads(folder, tokens)
    results: Samples = {streams: {} for streams in STREAMS}
    home = folder / "home"
    with running(home) as tokenworks, engine_alone(folder, threads) as alone:
        assert tokenworks.process is not None
        address = tokenworks.url.removeprefix("http://")
        through = Side(
            "through the door", Loader(address, program=compile_load()), tokenworks.key, tokenworks.process.pid
        )
        for side in (through, alone):
            measure(side, SLOTS, "warm", 8)
        for number in range(rounds):
            order = (alone, through) if number % 2 else (through, alone)
            for streams in STREAMS:
                for side in order:
                    sample = measure(side, streams, f"{number}-{streams}", tokens)
                    results[streams].setdefault(side.name, []).append(sample)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results, threads


def ratio(results: Samples, streams: int) -> Figure:
    """Through the door over the engine alone, round by round."""
    through, alone = (_speed(results[streams][name]) for name in ("through the door", "engine alone"))
    return through.over(alone)


def _speed(samples: Sequence[Sample]) -> Figure:
    return Figure(tuple(sample.tokens_per_second for sample in samples))


def _cost(samples: Sequence[Sample]) -> Figure:
    return Figure(tuple(sample.cpu_ms_per_token for sample in samples))


def render(results: Samples) -> str:
    """The table."""
    header = [
        "streams",
        "through the door, tokens/s",
        "engine alone, tokens/s",
        "ratio",
        "95 %",
        "CPU ms/token",
        "alone",
        "target",
    ]
    lines = []
    for streams, sides in results.items():
        through, alone = sides["through the door"], sides["engine alone"]
        of = ratio(results, streams)
        low, high = interval(of)
        lines.append(
            [
                str(streams),
                show(_speed(through)),
                show(_speed(alone)),
                show(of, 3),
                f"{low:.3f}-{high:.3f}",
                show(_cost(through), 2),
                show(_cost(alone), 2),
                f">= {TARGET:g}",
            ]
        )
    return table(header, lines)


def as_json(results: Samples, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "benchmark": "engine",
        "about": about,
        "target": TARGET,
        "ratios": {
            str(streams): {**ratio(results, streams).as_json(), "interval_95": interval(ratio(results, streams))}
            for streams in results
        },
        "samples": {
            str(streams): {
                name: [
                    {
                        "tokens_per_second": sample.tokens_per_second,
                        "cpu_ms_per_token": sample.cpu_ms_per_token,
                        "first_content_us": sample.report.first_content_us,
                    }
                    for sample in samples
                ]
                for name, samples in sides.items()
            }
            for streams, sides in results.items()
        },
    }


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96, help="per answer")
    parser.add_argument(
        "--short", action="store_true", help="two rounds of short answers: for trying it out, not for figures"
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the target is missed")
    options = parser.parse_args()
    rounds, tokens = (2, 16) if options.short else (max(options.rounds, 1), options.tokens)
    try:
        with tempfile.TemporaryDirectory(prefix="tokenworks-bench-") as name:
            results, threads = run(Path(name), rounds, tokens)
    except (BenchmarkError, BuildError, StartError) as error:
        print(f"benchmarks.engine: {error}", file=sys.stderr)
        return 2
    about = {**machine(), "rounds": rounds, "tokens": tokens, "slots": SLOTS, "threads_alone": threads}
    print(f"{about['cpu']}, {about['cores']} cores; the engine alone with {threads} threads; {rounds} rounds\n")
    print(render(results))
    if options.json:
        options.json.write_text(json.dumps(as_json(results, about), indent=1) + "\n")
    missed = [streams for streams in results if ratio(results, streams).median < TARGET]
    for streams in missed:
        print(f"missed at {streams} streams: {ratio(results, streams).median:.3f}, the target is {TARGET:g}")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    end_well(main)
