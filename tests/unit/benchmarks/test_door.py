"""What the door's benchmark sends, and how it judges."""

import json

import pytest

from benchmarks.door import CASES, REQUEST_BYTES, TARGETS, Case, make_body, misses, render, rows_of
from benchmarks.door import Sample as DoorSample
from benchmarks.figures import Figure
from benchmarks.gateways import Gateway
from benchmarks.load import Report


@pytest.mark.parametrize("is_streamed", [True, False])
def test_bodies_have_the_stated_length(is_streamed: bool) -> None:
    body = make_body("mock:chunks=64,pace=10", is_streamed=is_streamed)
    assert len(body) == REQUEST_BYTES
    assert json.loads(body).get("stream", False) is is_streamed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_checks_its_answers(case: Case) -> None:
    load = case.load(Gateway("door", "127.0.0.1:1", [], banned=('"timings"',)), 1.0)
    if case.is_streamed:
        assert load.chunks == case.chunks
        assert load.banned == ('"timings"',)
    else:
        assert f'"completion_tokens":{case.chunks}' in load.wanted


def _sample(cpu_us: float) -> DoorSample:
    latency = {"count": 1, "p50": 100, "p90": 100, "p99": 200, "max": 200}
    report = Report(1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1.0, latency, latency)
    return DoorSample(cpu_us, 0.5, report)


def _samples(request: float, chunk: float) -> dict[str, list[DoorSample]]:
    return {case.name: [_sample(request + chunk * (case.chunks - 1))] for case in CASES}


def test_targets_are_ratios_to_nginx() -> None:
    rows = rows_of({"nginx": _samples(10, 2), "tokenworks door": _samples(49, 2.9)})
    assert rows["tokenworks door"]["chunk, paced"].median == pytest.approx(2.9)
    assert misses(rows) == []
    assert f"<= {TARGETS['request']:g}" in render(rows)


def test_a_missed_target_is_named() -> None:
    rows = rows_of({"nginx": _samples(10, 2), "tokenworks door": _samples(51, 3.1)})
    assert [sentence.partition(":")[0] for sentence in misses(rows)] == [
        "request, 1 token",
        "chunk, burst",
        "chunk, paced",
    ]


def test_latency_comes_from_the_load() -> None:
    rows = rows_of({"nginx": _samples(10, 2)})
    assert rows["nginx"]["p99 at 1 connection"] == Figure((200.0,))
