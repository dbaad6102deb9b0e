"""One body out of a streamed answer, for a client that did not ask for a stream. Pure.

The answer was streamed all the same (`dialect.py` says why); here its events are decoded once, when it is whole.
"""

import msgspec

from tokenworks.kit.errors import UpstreamError
from tokenworks.metering.model import Counts
from tokenworks.serving.usage import Usage, usage_object

_MARK = b"data: "
_DONE = b"data: [DONE]"


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str
    created: int
    model: str
    choices: list[_Choice]
    system_fingerprint: str | None = None
    usage: Usage | None = None


_chunks_decoder = msgspec.json.Decoder(list[_Chunk])
_encoder = msgspec.json.Encoder()


class _Message(msgspec.Struct, omit_defaults=True):
    role: str
    content: str
    refusal: str | None
    reasoning_content: str | None = None


class _WholeChoice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: dict[str, list[msgspec.Raw] | None] | None
    finish_reason: str | None


class _Completion(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[_WholeChoice]
    usage: Usage


class _Parts:
    """One choice while it is put together."""

    __slots__ = ("content", "finish_reason", "logprobs", "reasoning", "refusal")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.logprobs: list[msgspec.Raw] | None = None
        self.finish_reason: str | None = None

    def add(self, choice: _Choice) -> None:
        delta = choice.delta
        if delta.content:
            self.content.append(delta.content)
        if delta.reasoning_content:
            self.reasoning.append(delta.reasoning_content)
        if delta.refusal:
            self.refusal.append(delta.refusal)
        if choice.logprobs is not None and choice.logprobs.content is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs += choice.logprobs.content
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason

    def render(self, index: int) -> _WholeChoice:
        message = _Message(
            "assistant", "".join(self.content), "".join(self.refusal) or None, "".join(self.reasoning) or None
        )
        logprobs = None if self.logprobs is None else {"content": self.logprobs, "refusal": None}
        return _WholeChoice(index, message, logprobs, self.finish_reason)


def assemble(events: bytes, choices: int) -> tuple[bytes, Counts]:
    """The `chat.completion` body that the events of an answer of so many choices make, and its counts.

    An engine may say usage once, or once per choice: prompts are the same then, and outputs add up.

    Raises:
        UpstreamError: an event cannot be read, or the answer is not whole.
    """
    chunks = _decode(events)
    wholes: dict[int, _Parts] = {}
    counts = Counts()
    for part in chunks:
        for choice in part.choices:
            parts = wholes.get(choice.index)
            if parts is None:
                parts = wholes[choice.index] = _Parts()
            parts.add(choice)
        if part.usage is not None:
            counts = _add(counts, part.usage)
    finished = sum(1 for parts in wholes.values() if parts.finish_reason is not None)
    if finished < choices:
        raise UpstreamError("the replica ended its answer before its end")
    first = chunks[0]
    return _encoder.encode(
        _Completion(
            first.id,
            "chat.completion",
            first.created,
            first.model,
            first.system_fingerprint,
            [wholes[index].render(index) for index in sorted(wholes)],
            usage_object(counts),
        )
    ), counts


def _decode(events: bytes) -> list[_Chunk]:
    """All chunks at once: between the events of an answer stand only their marks, and no blank line is inside one."""
    end = events.rfind(b"\n\n" + _DONE)
    if end < 0:
        raise UpstreamError("the replica ended its answer before its end")
    try:
        return _decode_marked(events[:end])
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # there may be comments between the events
    try:
        return _decode_marked(b"\n\n".join(each for each in events[:end].split(b"\n\n") if each.startswith(_MARK)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"the replica's answer cannot be read: {error}") from error


def _decode_marked(body: bytes) -> list[_Chunk]:
    return _chunks_decoder.decode(b"[" + body[len(_MARK) :].replace(b"\n\n" + _MARK, b",") + b"]")


def _add(counts: Counts, usage: Usage) -> Counts:
    details = usage.prompt_tokens_details
    if usage.prompt_tokens <= counts.input_tokens:
        return Counts(counts.input_tokens, counts.cached_input_tokens, counts.output_tokens + usage.completion_tokens)
    cached = min(details.cached_tokens if details else 0, usage.prompt_tokens)
    return Counts(usage.prompt_tokens, cached, counts.output_tokens + usage.completion_tokens)
