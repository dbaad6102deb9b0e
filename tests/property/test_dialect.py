"""However the engine's bytes are cut by the network, a client sees the same and the same is counted."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.integration.gateway.harness import (
    DONE,
    chunk_event,
    finish_event,
    progress_event,
    role_event,
    usage_event,
)
from tokenworks.metering.model import Counts
from tokenworks.serving.dialect import LlamaCppReader, cut_timings

_pieces = st.sampled_from(['"', "\\", ",", "{", "}", "\n", "\n\n", "a", "é", "😀", "finish_reason", ":", "[DONE]"])
_traps = st.sampled_from(
    [
        '"finish_reason":"stop"',
        ',"timings":{"predicted_n":99}',
        "data: [DONE]",
        '"usage":{',
        '"prompt_progress":{',
        '\n\ndata: {"error":{"message":"no"}}\n\n',
    ]
)
_texts = st.lists(_pieces | _traps, max_size=6).map("".join)


@st.composite
def _answers(draw: st.DrawFn) -> tuple[int, list[bytes], list[str], Counts]:
    """An answer of some choices as llama.cpp sends it: events, each choice's text, the true counts."""
    choices = draw(st.integers(1, 3))
    texts = [draw(st.lists(_texts, max_size=6)) for _ in range(choices)]
    order = draw(st.permutations([index for index in range(choices) for _ in texts[index]]))
    events = [progress_event(3), progress_event(9, total=9), *(role_event(index) for index in range(choices))]
    sent = [0] * choices
    for index in order:
        sent[index] += 1
        events.append(chunk_event(sent[index], texts[index][sent[index] - 1], index=index, prompt=9, cached=2))
    for index in draw(st.permutations(range(choices))):
        events += [finish_event("stop", index), usage_event(sent[index], prompt=9, cached=2)]
    return choices, [*events, DONE], ["".join(each) for each in texts], Counts(9, 2, sum(sent))


def _feed(reader: LlamaCppReader, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(reader.feed(data[a:b]) for a, b in pairwise(places))


@given(_answers(), st.lists(st.integers(0, 10**6), max_size=30))
def test_cuts_change_nothing(answer: tuple[int, list[bytes], list[str], Counts], cuts: list[int]) -> None:
    choices, events, _, counts = answer
    data = b"".join(events)
    whole, pieces = LlamaCppReader(choices), LlamaCppReader(choices)
    seen = _feed(whole, data, [])
    assert _feed(pieces, data, cuts) == seen
    assert whole.take_end(with_usage=True) == pieces.take_end(with_usage=True)
    assert whole.counts == pieces.counts == counts
    assert whole.is_complete
    assert pieces.is_complete
    assert whole.error is None


@given(_answers(), st.integers(0, 10**6))
def test_a_cut_stream_never_counts_more_than_the_engine_said(
    answer: tuple[int, list[bytes], list[str], Counts], cut: int
) -> None:
    choices, events, _, counts = answer
    data = b"".join(events)
    end = cut % (len(data) + 1)
    reader = LlamaCppReader(choices)
    reader.feed(data[:end])
    at_cut = reader.counts
    assert at_cut.output_tokens <= counts.output_tokens
    assert at_cut.cached_input_tokens <= at_cut.input_tokens <= counts.input_tokens
    reader.feed(data[end:])
    assert reader.counts == counts


@given(_answers())
def test_the_end_is_held_and_the_counts_are_cut_out(answer: tuple[int, list[bytes], list[str], Counts]) -> None:
    choices, events, _, _ = answer
    reader = LlamaCppReader(choices)
    seen = reader.feed(b"".join(events))
    assert seen.count(b'"finish_reason":"stop"') == choices - 1
    assert b'"timings":{' not in seen
    end = reader.take_end(with_usage=False)
    assert end.count(b'"finish_reason":"stop"') == 1
    assert b'"usage":{' not in end
    assert end.endswith(DONE)


@given(st.lists(_texts, max_size=5))
def test_cutting_timings_keeps_everything_else(texts: list[str]) -> None:
    events = b"".join(chunk_event(number, text) for number, text in enumerate(texts))
    cut = cut_timings(events)
    assert b'"timings":{' not in cut
    assert cut_timings(cut) == cut
    assert cut.count(b"\n\n") == len(texts)
