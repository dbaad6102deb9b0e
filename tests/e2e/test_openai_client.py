"""The unmodified `openai` client against the real engine: what it gets, and what is on record."""

import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.load import MODEL, child_pid
from tokenworks.metering.wire import USAGE_REQUESTS, RequestsWanted, UsageRow
from tokenworks.testing.running import Running


@pytest.fixture
def client(tokenworks: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tokenworks.url}/v1", api_key=tokenworks.key, max_retries=0)


def _messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _row(tokenworks: Running, request_id: str) -> UsageRow:
    """The usage row of an answer; it must be there within two seconds."""
    end = time.monotonic() + 2
    while True:
        rows = [
            row
            for row in tokenworks.client().call(USAGE_REQUESTS, RequestsWanted()).data
            if row.request_id == request_id
        ]
        if rows:
            assert len(rows) == 1
            return rows[0]
        assert time.monotonic() < end, f"no row for {request_id} within two seconds"
        time.sleep(0.05)


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "default"


@pytest.mark.parametrize("model", [MODEL, "default/SmolLM2-135M-Instruct"])
def test_plain(tokenworks: Running, client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=_messages("What is the capital of France? Answer in one word."),
        temperature=0,
        seed=1,
        max_completion_tokens=20,
    )
    answer = raw.parse()
    assert answer.choices[0].message.content is not None
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    row = _row(tokenworks, raw.headers["x-request-id"])
    assert row.status == "completed"
    assert (row.input_tokens, row.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert row.cached_input_tokens <= row.input_tokens
    assert (row.organization, row.project, row.model) == ("default", "default", MODEL)


def test_streamed_without_usage_asked(tokenworks: Running, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=_messages("Count to three."), max_tokens=7, temperature=0, stream=True
    )
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    row = _row(tokenworks, stream.response.headers["x-request-id"])
    assert (row.status, row.output_tokens) == ("completed", 7)


def test_streamed_with_usage_asked(tokenworks: Running, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=_messages("Count to three."),
        max_tokens=7,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    usage = chunks[-1].usage
    assert usage is not None
    assert 2 <= usage.completion_tokens <= 14
    row = _row(tokenworks, stream.response.headers["x-request-id"])
    assert (row.input_tokens, row.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)


def test_streamed_and_plain_say_the_same(client: openai.OpenAI) -> None:
    wanted: Any = {
        "model": MODEL,
        "messages": _messages("Write one line about the sea. Emoji: 😀"),
        "temperature": 0,
        "seed": 7,
        "max_tokens": 24,
        "logprobs": True,
        "top_logprobs": 2,
    }
    plain = client.chat.completions.create(**wanted).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**wanted, stream=True)]
    assert plain.message.content == "".join(choice.delta.content or "" for choice in chunks)
    assert plain.logprobs is not None
    tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content or []]
    assert [token.token for token in plain.logprobs.content or []] == [token.token for token in tokens]
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_stop_and_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=_messages("Count: 1, 2, 3, 4"), stop=["3", "7"], n=3, max_tokens=30, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert "3" not in (choice.message.content or "")


def test_a_stream_that_the_client_cuts(tokenworks: Running, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=_messages("Tell a very long story."),
        max_tokens=1000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    seen = 0
    for chunk in stream:
        seen += bool(chunk.choices[0].delta.content)
        if seen == 10:
            break
    stream.close()
    row = _row(tokenworks, stream.response.headers["x-request-id"])
    assert row.status == "cancelled"
    assert 10 <= row.output_tokens <= 100
    assert row.input_tokens > 0
    _await_idle_engine(tokenworks, 3.0)


def test_a_client_that_leaves_in_a_long_prefill_stops_the_engine(tokenworks: Running, client: openai.OpenAI) -> None:
    words = " ".join(f"word{number}" for number in range(500))
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.4).chat.completions.create(model=MODEL, messages=_messages(words), max_tokens=5)
    end = time.monotonic() + 2
    while not (cut := [row for row in _rows(tokenworks) if row.status == "cancelled" and row.output_tokens == 0]):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert cut[0].input_tokens < 1400, "the whole prompt was processed"
    _await_idle_engine(tokenworks, 3.0)


def test_errors_have_the_clients_own_classes(tokenworks: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=_messages("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=_messages("hello " * 3000))
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=f"{tokenworks.url}/v1", api_key="tw-wrong").models.list()
    assert wrong.value.code == "invalid_api_key"


def test_a_revoked_key_stops_within_a_second(tokenworks: Running) -> None:
    made = json.loads(tokenworks.run("keys", "create", "--organization", "default", "--json").stdout)
    client = openai.OpenAI(base_url=f"{tokenworks.url}/v1", api_key=made["key"], max_retries=0)
    end = time.monotonic() + 1
    while True:
        try:
            client.models.list()
            break
        except openai.AuthenticationError:
            assert time.monotonic() < end, "a new key is not known after a second"
    assert tokenworks.run("keys", "revoke", made["id"]).returncode == 0
    end = time.monotonic() + 1
    with pytest.raises(openai.AuthenticationError) as refused:
        while time.monotonic() < end:
            client.models.list()
    assert refused.value.code == "revoked_api_key"


def _rows(tokenworks: Running) -> list[UsageRow]:
    return tokenworks.client().call(USAGE_REQUESTS, RequestsWanted()).data


def _await_idle_engine(tokenworks: Running, within_s: float) -> None:
    """The engine must stop computing within so many seconds: then it uses next to no CPU."""
    assert tokenworks.process is not None
    stat = Path(f"/proc/{child_pid(tokenworks.process.pid, 'tokenworks.server.replica')}/stat")
    end = time.monotonic() + within_s
    while True:
        before = _cpu_ticks(stat)
        time.sleep(0.25)
        if _cpu_ticks(stat) - before <= 3:
            return
        assert time.monotonic() < end, "the engine goes on"


def _cpu_ticks(stat: Path) -> int:
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
