"""The one place where control's errors become answers: OpenAI's shape, also under `/admin` and `/region`."""

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tokenworks.kit.errors import InvalidRequestError, NotFoundError, TokenworksError

_ROUTE_ERRORS = {404: "not_found", 405: "method_not_allowed"}


def render_error(error: TokenworksError) -> bytes:
    """The JSON body for an error: `{"error": {"message", "type", "param", "code"}}`."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def add_error_handlers(app: FastAPI) -> None:
    """Let every error of the app be answered in the one shape."""
    app.add_exception_handler(TokenworksError, _answer_known)
    app.add_exception_handler(HTTPException, _answer_route)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_bug)


def _response(error: TokenworksError, headers: dict[str, str] | None = None) -> Response:
    own = {}
    if error.http_status == 401:
        own["www-authenticate"] = "Bearer"
    if error.retryable:
        own["retry-after"] = "1"
    return Response(
        render_error(error),
        status_code=error.http_status,
        media_type="application/json",
        headers={**own, **(headers or {})},
    )


async def _answer_known(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TokenworksError)
    return _response(error)


async def _answer_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _ROUTE_ERRORS.get(error.status_code, "invalid_request")
    if error.status_code == 404:
        return _response(NotFoundError(f"there is nothing at {request.method} {request.url.path[:200]}", code=code))
    known = InvalidRequestError(
        f"{request.method} {request.url.path[:200]}: {error.detail}", code=code, status=error.status_code
    )
    return _response(known, dict(error.headers or {}))


async def _answer_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return _response(InvalidRequestError(f"{field}: {first['msg']}", param=field or None))


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    # The traceback goes to the log: Starlette raises the error again after this answer.
    return _response(TokenworksError("tokenworks made a mistake here; its log has the details"))
