"""The bytes of answers: heads, errors, the list of models, and one body out of a streamed answer. Pure."""

from http import HTTPStatus

import msgspec

from tokenworks.kit.errors import TokenworksError
from tokenworks.metering.model import Counts
from tokenworks.region.model import SnapshotDeployment
from tokenworks.serving.dialect import Usage, usage_object

_encoder = msgspec.json.Encoder()
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
LAST_CHUNK = b"0\r\n\r\n"


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[_Choice]
    system_fingerprint: str | None = None


_chunk_decoder = msgspec.json.Decoder(_Chunk)


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and its line end."""
    return b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"Unknown"))


def whole_head(
    status: int, content_type: bytes, length: int, request_id: bytes, *, keep_alive: bool, extra: bytes = b""
) -> bytes:
    """The head of an answer whose body is known. `extra` are whole header lines."""
    return b"%scontent-type: %s\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s%s\r\n" % (
        status_line(status),
        content_type,
        length,
        request_id,
        extra,
        b"" if keep_alive else b"connection: close\r\n",
    )


def stream_head(request_id: bytes, *, is_chunked: bool, keep_alive: bool) -> bytes:
    """The head of an event stream. A client of HTTP/1.0 gets no chunks: its stream ends with the connection."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncache-control: no-cache\r\nx-request-id: %s\r\n%s%s\r\n" % (
        EVENTS,
        request_id,
        b"transfer-encoding: chunked\r\n" if is_chunked else b"",
        b"" if keep_alive and is_chunked else b"connection: close\r\n",
    )


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def error_body(error: TokenworksError) -> bytes:
    """OpenAI's shape of an error."""
    return _encoder.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_event(error: TokenworksError) -> bytes:
    """An error inside a stream that has begun."""
    return b"data: " + error_body(error) + b"\n\n"


def models_body(deployments: tuple[SnapshotDeployment, ...]) -> bytes:
    """`GET /v1/models`."""
    return _encoder.encode({"object": "list", "data": [_model(entry) for entry in deployments]})


def model_body(deployment: SnapshotDeployment) -> bytes:
    """`GET /v1/models/{model}`."""
    return _encoder.encode(_model(deployment))


def _model(deployment: SnapshotDeployment) -> dict[str, object]:
    return {
        "id": deployment.name,
        "object": "model",
        "created": deployment.created_at_s,
        "owned_by": deployment.owner,
        "context_window": deployment.context_tokens,
    }


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


def assemble(events: bytes, counts: Counts) -> bytes:
    """One `chat.completion` body out of the events of a complete answer.

    Raises:
        msgspec.DecodeError: an event is not a chat completion chunk.
    """
    choices: dict[int, _Parts] = {}
    first: _Chunk | None = None
    for event in events.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        part = _chunk_decoder.decode(event[6:])
        if first is None:
            first = part
        for choice in part.choices:
            parts = choices.get(choice.index)
            if parts is None:
                parts = choices[choice.index] = _Parts()
            parts.add(choice)
    if first is None:
        raise msgspec.DecodeError("the answer holds no chunk")
    return _encoder.encode(
        _Completion(
            first.id,
            "chat.completion",
            first.created,
            first.model,
            first.system_fingerprint,
            [choices[index].render(index) for index in sorted(choices)],
            usage_object(counts),
        )
    )
