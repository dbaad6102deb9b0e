"""Every error becomes one shape."""

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tokenworks.kit.errors import AuthenticationError, InvalidRequestError, StorageFullError, TokenworksError
from tokenworks.server import errors

REQUEST = Request({"type": "http", "method": "GET", "path": "/a", "query_string": b"", "headers": []})


def parts(response: Response) -> tuple[int, dict[str, Any]]:
    return response.status_code, json.loads(bytes(response.body))["error"]


def test_the_shape_is_openais() -> None:
    error = InvalidRequestError("no", code="bad", param="x")
    assert json.loads(errors.render_error(error)) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "x", "code": "bad"}
    }


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (AuthenticationError("no"), 401, ("www-authenticate", "Bearer")),
        (StorageFullError("full"), 503, ("retry-after", "1")),
        (TokenworksError("no", status=418), 418, ("content-type", "application/json")),
    ],
)
async def test_known_errors(error: TokenworksError, status: int, header: tuple[str, str]) -> None:
    response = await errors._answer_known(REQUEST, error)
    assert parts(response)[0] == status
    assert response.headers[header[0]] == header[1]


async def test_routes_that_do_not_exist() -> None:
    status, error = parts(await errors._answer_route(REQUEST, HTTPException(404)))
    assert (status, error["code"], error["message"]) == (404, "not_found", "there is nothing at GET /a")
    response = await errors._answer_route(REQUEST, HTTPException(405, headers={"Allow": "POST"}))
    status, error = parts(response)
    assert (status, error["code"], response.headers["allow"]) == (405, "method_not_allowed", "POST")
    status, error = parts(await errors._answer_route(REQUEST, HTTPException(400, "bad body")))
    assert (status, error["code"], error["message"]) == (400, "invalid_request", "GET /a: bad body")


async def test_what_the_framework_refuses() -> None:
    refused = RequestValidationError([{"loc": ("query", "limit"), "msg": "not a number", "type": "int"}])
    status, error = parts(await errors._answer_validation(REQUEST, refused))
    assert (status, error["param"], error["message"]) == (400, "limit", "limit: not a number")


async def test_bugs_tell_nothing() -> None:
    status, error = parts(await errors._answer_bug(REQUEST, RuntimeError("a secret")))
    assert (status, error["code"]) == (500, "internal_error")
    assert "secret" not in error["message"]
