"""What llama.cpp's events mean, one by one, also when they are not as they should be."""

import pytest

from tests.integration.gateway.harness import DONE, chunk_event, finish_event, progress_event, role_event, usage_event
from tokenworks.kit.errors import InvalidRequestError, UpstreamError
from tokenworks.metering.model import Counts
from tokenworks.serving import dialect
from tokenworks.serving.dialect import LlamaCpp, LlamaCppReader


def test_an_event_over_the_limit_is_an_error_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "_EVENT_BYTES_MAX", 100)
    reader = LlamaCppReader(1)
    assert reader.feed(b"data: " + b"x" * 200) == b""
    assert isinstance(reader.error, UpstreamError)
    assert reader._carry == b""


def test_a_comment_goes_to_the_client() -> None:
    reader = LlamaCppReader(1)
    assert reader.feed(b": ping\n\n") == b": ping\n\n"
    assert reader.error is None


def test_content_without_counts_passes_and_counts_nothing() -> None:
    reader = LlamaCppReader(1)
    reader.feed(progress_event(7) + role_event() + chunk_event(1))
    plain = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"y"}}]}\n\n'
    assert reader.feed(plain) == plain
    assert reader.counts == Counts(7, 2, 1)


@pytest.mark.parametrize("choices", [1, 2])
def test_counts_never_go_back(choices: int) -> None:
    reader = LlamaCppReader(choices)
    reader.feed(progress_event(7) + role_event() + chunk_event(1) + chunk_event(5))
    reader.feed(chunk_event(3) + progress_event(4))
    assert reader.counts.input_tokens == 7
    assert reader.counts.output_tokens == 5


def test_the_end_has_usage_only_if_it_was_asked_for() -> None:
    for with_usage in (True, False):
        reader = LlamaCppReader(1)
        reader.feed(progress_event(7) + role_event() + chunk_event(1) + finish_event() + usage_event(1) + DONE)
        assert reader.is_complete
        end = reader.take_end(with_usage=with_usage)
        assert (b'"usage"' in end) is with_usage
        assert end.endswith(DONE)


def test_an_error_in_the_events_is_the_answers_error() -> None:
    event = b'data: {"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}\n\n'
    with pytest.raises(InvalidRequestError, match="too long"):
        LlamaCpp().assemble(progress_event(7) + event, 1)
    reader = LlamaCppReader(1)
    assert reader.feed(event) == b""
    assert isinstance(reader.error, InvalidRequestError)
