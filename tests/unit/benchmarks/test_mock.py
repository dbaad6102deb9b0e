"""The mock engine and the load generator, compiled and set against each other.

These two measure and audit everything else, so they are real processes here: a fake of them would prove nothing.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.build import BuildError, compile_load, compile_mock
from benchmarks.children import BenchmarkError
from benchmarks.gateways import mock_engine
from benchmarks.load import Load, Loader
from tokenworks.serving.dialect import DIALECTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the mock engine needs epoll")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    try:
        compile_mock(folder)
        compile_load(folder)
    except BuildError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture
def engine(folder: Path) -> Iterator[str]:
    with mock_engine(compile_mock(folder)) as address:
        yield address


@pytest.fixture
def loader(folder: Path, engine: str) -> Loader:
    return Loader(engine, program=compile_load(folder))


def body(magic: str, **fields: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": f"mock:{magic}"}], **fields})


def ask(engine: str, content: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://{engine}/v1/chat/completions", content.encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def get(engine: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{engine}{path}", timeout=10) as answer:
        return json.load(answer)


def events(content: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in content.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_stream_has_the_engines_shape(engine: str) -> None:
    asked = body(
        "chunks=2,prompt=31,cached=30,finish=stop",
        stream=True,
        timings_per_token=True,
        return_progress=True,
        stream_options={"include_usage": True},
    )
    status, content = ask(engine, asked)
    assert status == 200
    progress, role, first, second, finish, usage = events(content)
    assert progress["prompt_progress"] == {"total": 31, "cache": 30, "processed": 31, "time_ms": 4}
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert "timings" not in role
    assert [each["choices"][0]["delta"]["content"] for each in (first, second)] == [" w0", " w1"]
    assert [each["timings"]["predicted_n"] for each in (first, second)] == [1, 2]
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert "timings" not in finish
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3, "the end token is counted"
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 30}


def test_choices_take_turns_and_each_has_its_usage(engine: str) -> None:
    _, content = ask(engine, body("chunks=2", stream=True, n=2, stream_options={"include_usage": True}))
    found = events(content)
    turns = [each["choices"][0]["index"] for each in found if each["choices"] and each["choices"][0]["delta"]]
    assert turns == [0, 0, 1, 1, 0, 1], "each choice: role and first word, later the second word"
    assert sum("usage" in each for each in found) == 2
    texts: dict[int, str] = {}
    for each in found:
        for choice in each["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert texts == {0: " w0 w1", 1: " w0 w1"}


def test_whole_answer_holds_what_the_stream_would(engine: str) -> None:
    status, content = ask(engine, body("chunks=3", n=2))
    answer = json.loads(content)
    assert status == 200
    assert [each["message"]["content"] for each in answer["choices"]] == [" w0 w1 w2"] * 2
    assert answer["usage"]["completion_tokens"] == 6


def test_dialect_reads_the_mock(engine: str) -> None:
    dialect = DIALECTS["llamacpp"]
    members = json.loads(b"{" + dialect.suffix() + b"}")
    _, content = ask(engine, body("chunks=5,prompt=40,cached=8", **members))
    reader = dialect.reader(1)
    reader.feed(content)
    assert reader.is_complete
    assert reader.error is None
    assert (reader.counts.input_tokens, reader.counts.cached_input_tokens, reader.counts.output_tokens) == (40, 8, 5)


def test_error_status_has_the_engines_shape(engine: str) -> None:
    status, content = ask(engine, body("status=500", stream=True))
    assert status == 500
    assert json.loads(content)["error"]["code"] == 500


def test_load_checks_streams_word_by_word(loader: Loader, engine: str) -> None:
    asked = body("chunks=20", stream=True)
    report = loader.run(Load([asked], requests=200, connections=8, chunks=20))
    assert (report.complete, report.chunks, report.connects) == (200, 4000, 8)
    assert get(engine, "/mock/stats")["finished"] == 200
    with pytest.raises(BenchmarkError, match="chunk count"):
        loader.run(Load([asked], requests=10, chunks=19))


def test_load_checks_whole_bodies(loader: Loader) -> None:
    asked = body("chunks=2")
    assert loader.run(Load([asked], requests=50, wanted=['"content":" w0 w1"'])).complete == 50
    with pytest.raises(BenchmarkError, match="wanted text is missing"):
        loader.run(Load([asked], requests=1, wanted=['"content":" w1 w0"']))
    with pytest.raises(BenchmarkError, match="banned text"):
        loader.run(Load([asked], requests=1, banned=['"timings"']))
    with pytest.raises(BenchmarkError, match="status"):
        loader.run(Load([asked], requests=1, status=500))


def test_truth_tells_what_became_of_each(loader: Loader, engine: str) -> None:
    loader.run(Load([body("chunks=4,tag=whole", stream=True)], requests=1))
    assert loader.start(Load([body("chunks=9,die=3,tag=dead", stream=True)], requests=1)).finish().broken == 1
    cut = Load([body("chunks=500,pace=5,tag=cut", stream=True)], requests=1, cut_after=2)
    assert loader.start(cut).finish().cut == 1
    truths = {each["tag"]: each for each in get(engine, "/mock/truth?after=0")}
    while "cut" not in truths:
        truths = {each["tag"]: each for each in get(engine, "/mock/truth?after=0")}
    assert (truths["whole"]["outcome"], truths["whole"]["output_tokens"]) == ("finished", 4)
    assert (truths["dead"]["outcome"], truths["dead"]["output_tokens"]) == ("died", 3)
    assert truths["cut"]["outcome"] == "aborted"
    assert 2 <= truths["cut"]["output_tokens"] < 500


def test_paced_streams_take_their_time(loader: Loader) -> None:
    report = loader.run(Load([body("chunks=10,pace=5,prefill=20", stream=True)], requests=4, connections=4, chunks=10))
    assert report.latency_us["p50"] >= 60_000
    assert report.first_content_us["p50"] >= 18_000


def test_silent_engine_is_reported_as_unanswered(loader: Loader) -> None:
    report = loader.start(Load([body("chunks=4,hang=2", stream=True)], requests=2, wait_seconds=0.2)).finish()
    assert (report.unanswered, report.complete) == (2, 0)
