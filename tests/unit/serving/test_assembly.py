"""One body out of the events of an answer: nothing of it is lost, and what is not whole is no answer."""

import json
from typing import Any

import pytest

from tests.integration.gateway.harness import DONE, chunk_event, finish_event, role_event, usage_event
from tokenworks.kit.errors import UpstreamError
from tokenworks.metering.model import Counts
from tokenworks.serving.assembly import assemble


def _event(delta: dict[str, object], **choice: object) -> bytes:
    body = {
        "choices": [{"finish_reason": None, "index": 0, "delta": delta, **choice}],
        "id": "chatcmpl-1",
        "created": 1,
        "model": "tiny",
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _assembled(*events: bytes, choices: int = 1) -> dict[str, Any]:
    body, _ = assemble(b"".join(events), choices)
    parsed: dict[str, Any] = json.loads(body)
    return parsed


def test_all_kinds_of_text_are_put_together() -> None:
    deltas: tuple[dict[str, object], ...] = (
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"content": "a"},
        {"refusal": "no"},
    )
    whole = _assembled(*(_event(delta) for delta in deltas), finish_event(), usage_event(1), DONE)
    message = whole["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "a", "refusal": "no", "reasoning_content": "Hm."}


def test_logprobs_are_put_together() -> None:
    first = _event({"content": "a"}, logprobs={"content": [{"token": "a", "logprob": -0.5}]})
    second = _event({"content": "b"}, logprobs={"content": [{"token": "b", "logprob": -1}]})
    empty = _event({}, logprobs={"content": None})
    whole = _assembled(first, empty, second, finish_event(), usage_event(2), DONE)
    assert [each["token"] for each in whole["choices"][0]["logprobs"]["content"]] == ["a", "b"]


def test_without_logprobs_they_are_null() -> None:
    whole = _assembled(chunk_event(1), finish_event(), usage_event(1), DONE)
    assert whole["choices"][0]["logprobs"] is None


def test_comments_between_events_are_no_part_of_the_answer() -> None:
    whole = _assembled(b": ping\n\n", role_event(), b": ping\n\n", chunk_event(1), finish_event(), usage_event(1), DONE)
    assert whole["choices"][0]["message"]["content"] == "x"


def test_usage_of_several_choices_adds_up_outputs_over_one_prompt() -> None:
    events = [chunk_event(1, index=0), finish_event(index=0), usage_event(3, prompt=9, cached=4)]
    events += [finish_event(index=1), usage_event(5, prompt=9, cached=9), DONE]
    _, counts = assemble(b"".join(events), 2)
    assert counts == Counts(9, 4, 8)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [DONE],
        [chunk_event(1), finish_event(), usage_event(1)],
        [chunk_event(1), usage_event(1), DONE],
        [b"data: {not json}\n\n", finish_event(), DONE],
        [chunk_event(1).replace(b'"x"', b'"\xff"'), finish_event(), DONE],
    ],
    ids=["nothing", "only done", "no done", "no finish", "no json", "no utf-8"],
)
def test_what_is_not_whole_is_no_answer(events: list[bytes]) -> None:
    with pytest.raises(UpstreamError):
        assemble(b"".join(events), 1)
