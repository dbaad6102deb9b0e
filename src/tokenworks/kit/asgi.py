"""Typed requests and answers over ASGI: msgspec in, msgspec out, and a limit on every body.

A request struct is filled from the path's parameters and the query or the JSON body; what does not fit its type is an
`InvalidRequestError` that names the field. Bodies are read as a stream: the limit holds whatever was declared.
"""

import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tokenworks.kit.errors import InvalidRequestError, RequestTimeoutError, TooLargeError

T = TypeVar("T")

_FIELD = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


async def read_request(request: Request, kind: type[T], *, body_bytes_max: int = 1_048_576) -> T:
    """Decode the JSON body and the path's parameters into `kind`.

    Raises:
        InvalidRequestError: something does not fit; `param` names the field.
        TooLargeError: the body is over `body_bytes_max`.
    """
    return _convert({**_decode_object(await read_body(request, body_bytes_max)), **request.path_params}, kind)


def read_query(request: Request, kind: type[T]) -> T:
    """Decode the query and the path's parameters into `kind`; numbers may be written as text there.

    Raises:
        InvalidRequestError: something does not fit; `param` names the field.
    """
    return _convert({**request.query_params, **request.path_params}, kind, strict=False)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """Read a whole body that may not be larger than `bytes_max`.

    Raises:
        TooLargeError: it is larger.
    """
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > bytes_max:
                raise TooLargeError(f"the body is larger than {bytes_max} bytes")
    except ClientDisconnect as error:
        raise RequestTimeoutError("the client left before its whole body had arrived") from error
    return bytes(content)


def reply(value: object, status: int = 200) -> Response:
    """Answer with `value` as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _decode_object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise InvalidRequestError("the body must be a JSON object") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the body is not valid JSON: {error}", code="invalid_json") from error


def _convert(fields: dict[str, Any], kind: type[T], *, strict: bool = True) -> T:
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: msgspec.ValidationError) -> InvalidRequestError:
    message = str(error)
    place = _FIELD.search(message)
    missing = re.search(r"missing required field `([^`]+)`", message)
    unknown = re.search(r"contains unknown field `([^`]+)`", message)
    named = missing or unknown or place
    field = named.group(1) if named else None
    text = _FIELD.sub("", message)
    return InvalidRequestError(f"{field}: {text}" if field and named is place else text, param=field or None)
