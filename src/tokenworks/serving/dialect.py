"""How an engine speaks: what a door adds to a request, and where the engine's counts stand in its stream. Pure.

A door always streams upstream, also for a client that wants one body (an engine may not notice the other kind leaving).
`StreamReader` takes the engine's server-sent events as bytes and gives back the bytes that a client may see now. It
reads the counts by byte search, cuts them out, and holds back *the end*: everything from the event that completes the
last choice. The end is for the door to release when the record of the request is durable.

Byte search is safe: inside a JSON string every quote is escaped, so `"finish_reason":"` cannot stand in generated text.
Source: `docs/adr/0007-engine-dialects.md`.
"""

import re
from typing import Protocol

import msgspec

from tokenworks.kit.errors import InvalidRequestError, TokenworksError, UpstreamError
from tokenworks.metering.model import Counts
from tokenworks.serving.assembly import assemble
from tokenworks.serving.usage import Usage, usage_object


class StreamReader(Protocol):
    """Reads one answer's events."""

    is_complete: bool
    """True once the engine has said everything: all choices ended and the stream was closed by its own mark."""
    error: TokenworksError | None
    """The error that the engine reported inside the stream."""

    @property
    def counts(self) -> Counts:
        """Tokens so far; they only grow, and are what is charged when the stream is cut."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take body bytes as they arrived; return whole events that may go to the client now."""
        ...

    def take_end(self, *, with_usage: bool) -> bytes:
        """Return the end that was held back, with one usage event if asked."""
        ...


class Dialect(Protocol):
    """One engine's way of speaking."""

    def suffix(self) -> bytes:
        """JSON members that the door adds to every request, without the braces."""
        ...

    def reader(self, choices: int) -> StreamReader:
        """A reader for one answer of that many choices."""
        ...

    def assemble(self, events: bytes, choices: int) -> tuple[bytes, Counts]:
        """One body out of all events of an answer, and its counts.

        Raises:
            TokenworksError: the answer is not whole, or the engine reported an error in it.
        """
        ...

    def refusal(self, status: int, body: bytes) -> TokenworksError:
        """Translate the engine's answer to a request that it did not take."""
        ...


class _UsageEvent(msgspec.Struct):
    id: str
    created: int
    model: str
    usage: Usage
    system_fingerprint: str | None = None


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int | str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


_usage_decoder = msgspec.json.Decoder(_UsageEvent)
_error_decoder = msgspec.json.Decoder(_ErrorBody)
_encoder = msgspec.json.Encoder()

_CUT = b',"timings":{'
_FINISH = b'"finish_reason":"'
_PREDICTED = b'"predicted_n":'
_DONE = b"data: [DONE]"
_ERROR = b'data: {"error":'
_CHOICE = b'data: {"choices":[{'
_NO_CHOICE = b'data: {"choices":[]'
_PROGRESS = b',"prompt_progress":{'
_PLAIN = b'data: {"choices":[{"finish_reason":null,'
_FIRST = b'"predicted_n":1,'
_TIMINGS = re.compile(rb',"timings":\{[^}]*\}')
_DIGITS_MAX = 15
_EVENT_BYTES_MAX = 16_777_216


class LlamaCpp:
    """llama.cpp's server (xllamacpp 2026.10)."""

    def suffix(self) -> bytes:
        return b'"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true,"return_progress":true'

    def reader(self, choices: int) -> StreamReader:
        return LlamaCppReader(choices)

    def assemble(self, events: bytes, choices: int) -> tuple[bytes, Counts]:
        at = events.find(_ERROR)
        if at >= 0:
            raise _refusal(500, events[at + 6 : events.find(b"\n", at)])
        return assemble(events, choices)

    def refusal(self, status: int, body: bytes) -> TokenworksError:
        return _refusal(status, body)


class LlamaCppReader:
    """Reads llama.cpp's events: prompt progress first, `timings` in each content chunk, one usage event per choice."""

    __slots__ = (
        "_cached_tokens",
        "_carry",
        "_choices",
        "_end",
        "_finished",
        "_input_tokens",
        "_output",
        "_output_tokens",
        "_template",
        "error",
        "is_complete",
    )

    def __init__(self, choices: int) -> None:
        self.is_complete = False
        self.error: TokenworksError | None = None
        self._choices = choices
        self._finished = 0
        self._carry = b""
        self._end: list[bytes] = []
        self._input_tokens = 0
        self._cached_tokens = 0
        self._output_tokens = 0
        self._output: dict[int, int] = {}
        self._template: _UsageEvent | None = None

    @property
    def counts(self) -> Counts:
        """What the engine has said so far."""
        return Counts(self._input_tokens, self._cached_tokens, self._output_tokens)

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they arrived; return whole events that may go to the client now."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if not data.endswith(b"\n\n"):
            data = self._keep_rest(data)
        if self._choices > 1 or self._finished or not data:
            return self._feed_events(data)
        # One choice: between its first token and its finish all events are alike, and are not looked at one by one.
        first = b""
        if not self._output_tokens:
            cut = data.find(b"\n\n", data.find(_FIRST)) + 2 if _FIRST in data else len(data)
            first = self._feed_events(data[:cut])
            data = data[cut:]
        start = _last_event(data, len(data))
        if data.startswith(_PLAIN, start):
            plain = self._feed_plain(data, is_one=start == 0)
            return first + plain if first else plain
        cut = _find_special(data, start)
        if cut:
            first += self._feed_plain(data[:cut], is_one=False)
        return first + self._feed_events(data[cut:])

    def _keep_rest(self, data: bytes) -> bytes:
        """Return the whole events; the begun one waits for its rest."""
        end = data.rfind(b"\n\n")
        cut = end + 2 if end >= 0 else 0
        self._carry = data[cut:]
        if len(self._carry) > _EVENT_BYTES_MAX:
            self._carry = b""
            self.error = UpstreamError("the replica sent an event over the size limit")
        return data[:cut]

    def _feed_plain(self, data: bytes, *, is_one: bool) -> bytes:
        at = data.rfind(_CUT)
        if at < 0:
            return data
        try:
            output = _number(data, _PREDICTED, at)
        except ValueError:
            self.error = UpstreamError(f"the replica's counts cannot be read: {data[at:]!r}")
            return b""
        if output > self._output_tokens:
            self._output_tokens = self._output[0] = output
        if is_one:
            return data[:at] + data[data.find(b"}", at) + 1 :]
        return cut_timings(data)

    def _feed_events(self, data: bytes) -> bytes:
        visible: list[bytes] = []
        for event in data.split(b"\n\n"):
            if not event:
                continue
            kept = self._read_event(event)
            if not kept:
                continue
            if self._finished >= self._choices:
                self._end.append(kept)
            else:
                visible.append(kept)
        return b"".join(visible)

    def _read_event(self, event: bytes) -> bytes:
        """Account for one event; return what of it a client may see, with its blank line."""
        if event.startswith(_CHOICE):
            return self._read_choice(event)
        if event.startswith(_DONE):
            self.is_complete = self._finished >= self._choices
        elif event.startswith(_NO_CHOICE):
            try:
                self._read_usage(_usage_decoder.decode(event[6:]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.error = UpstreamError(f"the replica's usage cannot be read: {error}")
        elif event.startswith((_ERROR, b"error: {")):
            self.error = _refusal(500, event[event.index(b"{") :])
        elif event.startswith(b":"):
            return event + b"\n\n"
        else:
            self.error = UpstreamError(f"the replica sent what is no event of its protocol: {event[:200]!r}")
        return b""

    def _read_choice(self, event: bytes) -> bytes:
        at = event.rfind(_CUT)
        if at >= 0:
            end = event.find(b"}", at) + 1
            try:
                if (self._choices > 1 or not self._output_tokens) and event.startswith(_PROGRESS, end):
                    self._read_progress(event, end)
                    return b""
                self._read_timings(event, at)
            except ValueError:
                self.error = UpstreamError(f"the replica's counts cannot be read: {event[at : at + 400]!r}")
                return b""
            event = event[:at] + event[end:]
        if not event.startswith(_PLAIN) and _FINISH in event:
            self._finished += 1
        return event + b"\n\n"

    def _read_progress(self, event: bytes, at: int) -> None:
        processed = _number(event, b'"processed":', at)
        self._raise_counts(processed, min(_number(event, b'"cache":', at), processed))

    def _read_timings(self, event: bytes, at: int) -> None:
        index = 0 if self._choices == 1 else _number(event, b'"index":', 0)
        predicted = _number(event, _PREDICTED, at)
        if predicted > self._output.get(index, 0):
            self._output[index] = predicted
        cached = _number(event, b'"cache_n":', at)
        self._raise_counts(cached + _number(event, b'"prompt_n":', at), cached)

    def _read_usage(self, event: _UsageEvent) -> None:
        usage = event.usage
        details = usage.prompt_tokens_details
        first = self._template is None
        self._template = event
        self._raise_counts(usage.prompt_tokens, details.cached_tokens if details else 0)
        if self._choices == 1 and first:
            self._output = {0: max(self._output.get(0, 0), usage.completion_tokens)}
            self._raise_counts(0, 0)

    def _raise_counts(self, input_tokens: int, cached_tokens: int) -> None:
        if input_tokens > self._input_tokens:
            self._input_tokens = input_tokens
            self._cached_tokens = min(max(cached_tokens, self._cached_tokens), input_tokens)
        self._output_tokens = max(sum(self._output.values()), self._output_tokens)

    def take_end(self, *, with_usage: bool) -> bytes:
        parts = self._end
        self._end = []
        if with_usage and self._template is not None:
            parts.append(b"data: " + usage_event(self._template, self.counts) + b"\n\n")
        parts.append(b"data: [DONE]\n\n")
        return b"".join(parts)


def _last_event(data: bytes, end: int) -> int:
    """Where the last event before `end` begins; an event ends there."""
    if data.find(b"\n", 0, end) == end - 2:  # a single event: the usual case, and one fast look
        return 0
    before = data.rfind(b"\n\n", 0, end - 2)
    return before + 2 if before >= 0 else 0


def _find_special(data: bytes, cut: int) -> int:
    """Where the events begin that are not plain content: what ends an answer stands at its end, so look from there."""
    while cut:
        start = _last_event(data, cut)
        if data.startswith(_PLAIN, start):
            break
        cut = start
    return cut


def cut_timings(data: bytes) -> bytes:
    """Remove every `timings` member that follows another member."""
    return _TIMINGS.sub(b"", data)


def usage_event(template: _UsageEvent, counts: Counts) -> bytes:
    """The last chunk of a stream whose client asked for usage: no choices, and exactly the counts on record."""
    return _encoder.encode(
        {
            "id": template.id,
            "object": "chat.completion.chunk",
            "created": template.created,
            "model": template.model,
            "system_fingerprint": template.system_fingerprint,
            "choices": [],
            "usage": usage_object(counts),
        }
    )


def _number(data: bytes, key: bytes, at: int) -> int:
    """The integer member after `at` whose key is that; another member follows it.

    Raises:
        ValueError: there is none.
    """
    found = data.find(key, at)
    start = found + len(key)
    end = data.find(b",", start)
    if found < 0 or end - start > _DIGITS_MAX:
        raise ValueError("no count, or one with too many digits")
    return int(data[start:end])


def _refusal(status: int, body: bytes) -> TokenworksError:
    try:
        detail = _error_decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UpstreamError(f"the replica answered {status} with a body that cannot be read")
    if detail.type == "exceed_context_size_error":
        return InvalidRequestError(
            f"the prompt and the answer do not fit the model's context: {detail.message}",
            code="context_length_exceeded",
            param="messages",
        )
    if 400 <= status < 500 and status not in (401, 403, 404, 429):
        return InvalidRequestError(detail.message or "the replica refused the request", code="invalid_request")
    return UpstreamError(f"the replica answered {status}: {detail.message or 'no reason given'}")


DIALECTS: dict[str, Dialect] = {"llamacpp": LlamaCpp()}
"""By the name of the engine."""
