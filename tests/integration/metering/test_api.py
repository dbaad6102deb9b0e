"""The usage routes as a client sees them, without a server in between."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request

from tests.unit.metering.builders import make_closed
from tokenworks.kit.db import Database
from tokenworks.kit.errors import AuthenticationError, TokenworksError
from tokenworks.metering import service, wire
from tokenworks.metering.api import make_router
from tokenworks.metering.journal import encode
from tokenworks.metering.model import Counts


@dataclass(frozen=True)
class Key:
    organization: str
    scopes: tuple[str, ...]


KEYS = {"admin": Key("default", ("admin", "inference")), "acme": Key("acme", ("inference",))}


async def authenticate(request: Request) -> Key:
    try:
        return KEYS[request.headers["authorization"]]
    except KeyError:
        raise AuthenticationError("no such key") from None


@pytest.fixture
async def app(database: Database) -> FastAPI:
    made = FastAPI()
    made.include_router(make_router(database, authenticate))
    records = [
        make_closed("a", organization="default", started_at_ms=0, client_request_id="mine"),
        make_closed("b", organization="acme", started_at_ms=1_000, counts=Counts(7, 2, 3)),
        make_closed("c", organization="acme", started_at_ms=2_000, project="lab"),
    ]
    async with database.write() as connection:
        await service.ingest(connection, "j1", 1, 0, b"".join(map(encode, records)), 9_000)
    return made


async def get(app: FastAPI, path: str, identity: str = "admin", /, **query: object) -> Any:
    """The answer's JSON; an error of ours passes through."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": urlencode(query).encode(),
        "headers": [(b"authorization", identity.encode())],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    return json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


async def test_a_request_has_the_fields_that_programs_rely_on(app: FastAPI) -> None:
    page = await get(app, "/admin/v1/usage/requests", order="oldest", limit=1)
    assert page == {
        "data": [
            {
                "request_id": "a",
                "client_request_id": "mine",
                "organization": "default",
                "project": "default",
                "key_id": "key_1",
                "model": "smollm2-135m-instruct",
                "input_tokens": 10,
                "cached_input_tokens": 4,
                "output_tokens": 20,
                "cost_nano": 0,
                "currency": "USD",
                "energy_microjoules": None,
                "energy_source": None,
                "status": "completed",
                "reason": "",
                "started_at": "1970-01-01T00:00:00.000Z",
                "ended_at": "1970-01-01T00:00:02.000Z",
            }
        ],
        "next_cursor": "0-a",
    }


@pytest.mark.parametrize(
    ("key", "query", "expected"),
    [
        ("admin", {}, "cba"),
        ("admin", {"order": "oldest"}, "abc"),
        ("admin", {"organization": "acme"}, "cb"),
        ("admin", {"project": "lab"}, "c"),
        ("admin", {"key": "key_1", "model": "smollm2-135m-instruct", "since_ms": 1_000, "until_ms": 2_000}, "b"),
        ("admin", {"key": "key_2"}, ""),
        ("admin", {"cursor": "2000-c"}, "ba"),
        ("acme", {}, "cb"),
        ("acme", {"organization": "acme"}, "cb"),
    ],
)
async def test_filters_and_what_a_key_may_see(app: FastAPI, key: str, query: dict[str, object], expected: str) -> None:
    page = await get(app, "/admin/v1/usage/requests", key, **query)
    assert [row["request_id"] for row in page["data"]] == list(expected)
    assert page["next_cursor"] is None


async def test_sums(app: FastAPI) -> None:
    assert await get(app, "/admin/v1/usage", "acme", by="project") == {
        "data": [
            {
                "by": "project",
                "name": name,
                "organization": "acme",
                "requests": 1,
                "input_tokens": counts[0],
                "cached_input_tokens": counts[1],
                "output_tokens": counts[2],
                "cost_nano": 0,
                "currency": "USD",
                "energy_microjoules": None,
            }
            for name, counts in (("default", (7, 2, 3)), ("lab", (10, 4, 20)))
        ]
    }
    (day,) = (await get(app, "/admin/v1/usage", by="day"))["data"]
    assert (day["name"], day["organization"], day["requests"]) == ("1970-01-01T00:00:00.000Z", None, 3)
    assert (await get(app, "/admin/v1/usage"))["data"][0]["by"] == "key"


@pytest.mark.parametrize(
    ("path", "key", "query", "code", "param"),
    [
        ("/requests", "nobody", {}, "invalid_api_key", None),
        ("", "nobody", {}, "invalid_api_key", None),
        ("/requests", "acme", {"organization": "default"}, "insufficient_scope", "organization"),
        ("", "acme", {"organization": "default"}, "insufficient_scope", "organization"),
        ("/requests", "admin", {"order": "random"}, "invalid_request", "order"),
        ("/requests", "admin", {"limit": 0}, "invalid_request", "limit"),
        ("/requests", "admin", {"limit": "many"}, "invalid_request", "limit"),
        ("/requests", "admin", {"cursor": "x"}, "invalid_request", "cursor"),
        ("/requests", "admin", {"since_ms": 2**63}, "invalid_request", "since_ms"),
        ("", "admin", {"until_ms": -(2**63)}, "invalid_request", "until_ms"),
        ("", "admin", {"by": "colour"}, "invalid_request", "by"),
    ],
)
async def test_what_is_refused(
    app: FastAPI, path: str, key: str, query: dict[str, object], code: str, param: str | None
) -> None:
    with pytest.raises(TokenworksError) as caught:
        await get(app, "/admin/v1/usage" + path, key, **query)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_the_declared_calls_are_the_routes_that_exist(app: FastAPI) -> None:
    paths = set(app.openapi()["paths"])
    assert {wire.USAGE_REQUESTS.path, wire.USAGE_SUMS.path} == paths
