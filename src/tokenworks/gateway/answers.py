"""The bytes of answers: heads, errors, the list of models. Pure."""

from http import HTTPStatus

import msgspec

from tokenworks.kit.errors import TokenworksError
from tokenworks.region.model import SnapshotDeployment

_encoder = msgspec.json.Encoder()
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
LAST_CHUNK = b"0\r\n\r\n"


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
