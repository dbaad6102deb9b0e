"""The door's HTTP: bad input, limits and times, each with a stable code, and a door that is well afterwards."""

import asyncio
import json

import pytest

from tests.integration.gateway.harness import (
    KEY,
    MODEL,
    Call,
    Reply,
    Scene,
    answer_events,
    chat_request,
    http_request,
    scene,
)

GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def _with(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


async def _chat(made: Scene, body: bytes) -> Reply:
    return await (await made.client()).request("POST", "/v1/chat/completions", body)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'"hello"', "invalid_type", None),
        (b"{}", "missing_required_parameter", "messages"),
        (json.dumps({"messages": GOOD["messages"]}).encode(), "missing_required_parameter", "model"),
        (_with(messages=[]), "invalid_value", "messages"),
        (_with(messages="hi"), "invalid_type", "messages"),
        (_with(messages=[{"role": "user"}]), "missing_required_parameter", "messages[0].content"),
        (_with(messages=[{"content": "x"}]), "missing_required_parameter", "messages[0].role"),
        (_with(messages=[{"role": "alien", "content": "x"}]), "invalid_value", "messages[0].role"),
        (_with(messages=[{"role": "user", "content": 5}]), "invalid_type", "messages[0].content"),
        (_with(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "unsupported_content", None),
        (_with(messages=[{"role": "user", "content": [{"type": "text"}]}]), "missing_required_parameter", None),
        (_with(model=7), "invalid_type", "model"),
        (_with(max_tokens=-1), "invalid_value", "max_tokens"),
        (_with(max_tokens=0), "invalid_value", "max_tokens"),
        (_with(max_completion_tokens="many"), "invalid_type", "max_completion_tokens"),
        (_with(temperature=3), "invalid_value", "temperature"),
        (_with(temperature="hot"), "invalid_type", "temperature"),
        (_with(stream="yes"), "invalid_type", "stream"),
        (_with(stream_options={"include_usage": True}), "invalid_value", "stream_options"),
        (_with(stream=True, stream_options={"x": 1}), "unknown_parameter", "stream_options.x"),
        (_with(n=0), "invalid_value", "n"),
        (_with(n=2.5), "invalid_type", "n"),
        (_with(stop=[""]), "invalid_value", "stop"),
        (_with(stop=[1]), "invalid_type", "stop[0]"),
        (_with(top_logprobs=3), "invalid_value", "top_logprobs"),
        (_with(logprobs=5), "invalid_type", "logprobs"),
        (_with(seed=2**70), "invalid_value", "seed"),
        (_with(n_predict=100000), "unknown_parameter", "n_predict"),
        (_with(lora=[{"id": 0, "scale": 1}]), "unknown_parameter", "lora"),
        (_with(tools=[{"type": "function"}]), "unsupported_parameter", "tools"),
        (_with(response_format={"type": "json_object"}), "unsupported_parameter", "response_format"),
        (_with(modalities=["audio"]), "unsupported_parameter", "modalities"),
        (
            _with(messages=[{"role": "user", "content": "x", "deep": None}]).replace(b"null", b"[" * 5000),
            "invalid_json",
            None,
        ),
        (_with().replace(b'"hi"', b'"\xff\xfe"'), "invalid_utf8", None),
        (_with(user="x").replace(b'"x"', b'"\xc3"'), "invalid_utf8", None),
        (_with(temperature=0).replace(b"0", b"NaN"), "invalid_json", None),
    ],
)
async def test_a_bad_body_is_a_clear_400_that_costs_nothing(body: bytes, code: str, param: str | None) -> None:
    async with scene() as made:
        reply = await _chat(made, body)
        assert (reply.status, reply.error["code"]) == (400, code)
        assert reply.error["type"] == "invalid_request_error"
        assert "x-request-id" in reply.headers
        if param is not None:
            assert reply.error["param"] == param
        assert made.journal.records == []
        assert made.replica.calls == []
        assert (await _chat(made, _with())).status == 200


async def test_an_unknown_model_is_a_404_that_names_what_there_is() -> None:
    async with scene() as made:
        reply = await _chat(made, _with(model="gpt-9"))
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert MODEL in str(reply.error["message"])
        assert (await _chat(made, _with(model="default/Tiny"))).status == 200


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("", 401, "missing_api_key"),
        ("authorization: Basic abc\r\n", 401, "missing_api_key"),
        ("authorization: Bearer\r\n", 401, "missing_api_key"),
        ("authorization: Bearer tw-wrong\r\n", 401, "invalid_api_key"),
        ("authorization: Bearer tw-revoked\r\n", 401, "revoked_api_key"),
        ("authorization: Bearer tw-expired\r\n", 401, "expired_api_key"),
        ("authorization: Bearer tw-hub\r\n", 403, "insufficient_scope"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/nothing"])
async def test_without_a_good_key_nothing_is_said(path: str, header: str, status: int, code: str) -> None:
    async with scene() as made:
        client = await made.client()
        body = _with()
        await client.send(
            f"POST {path} HTTP/1.1\r\nhost: x\r\n{header}content-length: {len(body)}\r\n\r\n".encode() + body
        )
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (status, code)
        assert KEY not in reply.body.decode()
        assert (await client.chat(max_tokens=1)).status == 200  # the connection is well


async def test_models_are_listed_and_shown() -> None:
    async with scene() as made:
        client = await made.client()
        listed = await client.request("GET", "/v1/models")
        data = listed.json["data"]
        assert isinstance(data, list)
        assert [entry["id"] for entry in data] == [MODEL]
        assert (await client.request("GET", f"/v1/models/{MODEL}")).json["id"] == MODEL
        assert (await client.request("GET", "/v1/models/default%2FTiny")).json["id"] == MODEL
        assert (await client.request("GET", "/v1/models/none")).error["code"] == "model_not_found"
        assert (await client.request("GET", "/v1/modelsx")).error["code"] == "unknown_route"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/region/v1/snapshot", 404, "not_found"),
        ("GET", "/admin/v1/keys", 503, "control_unavailable"),
    ],
)
async def test_wrong_routes(method: str, path: str, status: int, code: str) -> None:
    async with scene() as made:
        reply = await (await made.client()).request(method, path)
        assert (reply.status, reply.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "path", ["//region/v1/snapshot", "/./region/v1/snapshot", "/%72egion/v1/snapshot", "http://x/region/v1/snapshot"]
)
async def test_region_cannot_be_reached_by_another_spelling(path: str) -> None:
    async with scene() as made:
        reply = await (await made.client()).request("GET", path)
        assert reply.status in (404, 503)
        assert reply.error["code"] in ("not_found", "control_unavailable")


async def test_health_and_readiness_need_no_key() -> None:
    async with scene() as made:
        client = await made.client()
        await client.send(b"GET /healthz HTTP/1.1\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n")
        assert (await client.read_reply()).status == 200
        assert (await client.read_reply()).status == 200
        made.publish(replicas=())
        reply = await client.request("GET", "/readyz")
        assert (reply.status, reply.error["code"]) == (503, "not_ready")
        assert "its replica is starting" in str(reply.error["message"])


async def test_a_body_over_the_limit_announced_or_not() -> None:
    async with scene(body_bytes_max=2000) as made:
        client = await made.client()
        big = await client.request("POST", "/v1/chat/completions", b"x" * 5000)
        assert (big.status, big.error["code"]) == (413, "request_too_large")
        await client.send(
            http_request("POST", "/v1/chat/completions").replace(b"content-length: 0", b"transfer-encoding: chunked")
        )
        for _ in range(5):
            await client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        await client.send(b"0\r\n\r\n")
        assert (await client.read_reply()).error["code"] == "request_too_large"
        assert (await client.chat(max_tokens=1)).status == 200


async def test_bodies_of_all_clients_together_are_bounded() -> None:
    async with scene(bodies_bytes_max=70_000) as made:
        hoarder, late = await made.client(), await made.client()
        await hoarder.send(http_request("POST", "/v1/chat/completions", b"").replace(b"length: 0", b"length: 90000"))
        await hoarder.send(b"x" * 60_000)
        await asyncio.sleep(0.05)
        reply = await late.request("POST", "/v1/chat/completions", b"x" * 20_000)
        assert (reply.status, reply.error["code"]) == (503, "no_capacity")
        hoarder.close()
        while made.door.body_bytes:
            await asyncio.sleep(0.001)
        assert (await late.chat(max_tokens=1)).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nx-long: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(300)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 9000,
    ],
)
async def test_headers_over_the_limit(head: bytes) -> None:
    async with scene(header_bytes_max=4096) as made:
        client = await made.client()
        await client.send(head)
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
        assert await client.reader.read() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcdefghij\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_400(data: bytes) -> None:
    async with scene() as made:
        client = await made.client()
        await client.send(data)
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")
        assert await client.reader.read() == b""
        assert (await (await made.client()).chat(max_tokens=1)).status == 200


@pytest.mark.parametrize(
    "half",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n",
        http_request("POST", "/v1/chat/completions").replace(b"length: 0", b"length: 100") + b'{"model":',
        http_request("POST", "/v1/chat/completions").replace(b"content-length: 0", b"transfer-encoding: chunked")
        + b"5\r\nab",
    ],
    ids=["head", "body", "chunk"],
)
async def test_a_half_sent_request_is_a_408_in_time(half: bytes) -> None:
    async with scene(head_wait_ms_max=60, body_wait_ms_max=60) as made:
        client = await made.client()
        await client.send(half)
        reply = await client.read_reply()
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert await client.reader.read() == b""


async def test_an_idle_connection_is_closed() -> None:
    async with scene(idle_ms_max=60) as made:
        client = await made.client()
        assert (await client.chat(max_tokens=1)).status == 200
        assert await client.reader.read() == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    order = iter([0.02, 0, 0])

    async def uneven(call: Call) -> None:
        await asyncio.sleep(next(order))
        tokens = call.body["max_tokens"]
        assert isinstance(tokens, int)
        await call.answer(answer_events(tokens))

    async with scene() as made:
        made.replica.behaviour = uneven
        client = await made.client()
        await client.send(b"".join(chat_request(max_tokens=tokens) for tokens in (3, 1, 2)))
        usages = [(await client.read_reply()).json["usage"] for _ in range(3)]
        assert [usage["completion_tokens"] for usage in usages if isinstance(usage, dict)] == [3, 1, 2]


async def test_a_request_in_single_bytes_is_understood() -> None:
    async with scene() as made:
        client = await made.client()
        for byte in chat_request(max_tokens=1):
            await client.send(bytes([byte]))
        assert (await client.read_reply()).status == 200


async def test_expect_continue() -> None:
    async with scene(body_bytes_max=2000) as made:
        client = await made.client()
        body = _with(max_tokens=1)
        await client.send(http_request("POST", "/v1/chat/completions", body, "expect: 100-continue\r\n")[: -len(body)])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.read_reply()).status == 200
        await client.send(
            http_request("POST", "/v1/chat/completions", b"", "expect: 100-continue\r\n").replace(b": 0", b": 9000")
        )
        assert (await client.read_reply()).status == 413
        other = await made.client()
        await other.send(http_request("POST", "/v1/chat/completions", b"", "expect: magic\r\n"))
        assert (await other.read_reply()).status == 417


async def test_http_1_0_gets_its_answer_and_the_end_of_the_connection() -> None:
    async with scene() as made:
        client = await made.client()
        await client.send(chat_request(max_tokens=2, stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = await client.read_reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert reply.headers["connection"] == "close"


async def test_connection_close_is_kept() -> None:
    async with scene() as made:
        client = await made.client()
        await client.send(chat_request(max_tokens=1).replace(b"host: x", b"connection: close"))
        reply = await client.read_reply()
        assert reply.headers["connection"] == "close"
        assert await client.reader.read() == b""


async def test_connections_are_bounded() -> None:
    async with scene(connections_max=2) as made:
        first, second = await made.client(), await made.client()
        assert (await first.chat(max_tokens=1)).status == 200
        assert (await second.chat(max_tokens=1)).status == 200
        third = await made.client()
        reply = await third.read_reply()
        assert (reply.status, reply.error["code"]) == (503, "too_many_connections")
        first.close()
        while len(made.door.connections) > 1:
            await asyncio.sleep(0.001)
        assert (await (await made.client()).chat(max_tokens=1)).status == 200


async def test_a_clients_own_request_id_is_kept_beside_ours() -> None:
    async with scene() as made:
        client = await made.client()
        for _ in range(2):
            body = _with(max_tokens=1)
            await client.send(http_request("POST", "/v1/chat/completions", body, "X-Request-Id: mine\r\n"))
            assert (await client.read_reply()).headers["x-request-id"] != "mine"
        rows = await made.settled(2)
        assert [row.client_request_id for row in rows] == ["mine", "mine"]
        assert rows[0].request_id != rows[1].request_id


async def test_a_door_without_a_fresh_snapshot_refuses() -> None:
    async with scene(snapshot_age_ms_max=1000) as made:
        client = await made.client()
        made.door._confirmed_at_ms -= 2000
        assert (await client.chat()).error["code"] == "snapshot_too_old"
        made.door.confirm()
        assert (await client.chat(max_tokens=1)).status == 200


async def test_parameters_reach_the_engine_and_its_own_switches_are_the_doors() -> None:
    async with scene() as made:
        reply = await _chat(
            made,
            _with(
                max_tokens=9,
                max_completion_tokens=1000,
                temperature=0.5,
                seed=-1,
                stop=["a"],
                repetition_penalty=1.5,
                top_k=3,
                user="u",
                metadata={"a": "b"},
                store=False,
                stream=None,
                n=None,
                logit_bias={"5": -100},
            ),
        )
        assert reply.status == 200
        sent = dict(made.replica.calls[0].body)
        assert sent.pop("messages") == GOOD["messages"]
        assert sent == {
            "temperature": 0.5,
            "seed": 4294967294,
            "stop": ["a"],
            "repeat_penalty": 1.5,
            "top_k": 3,
            "logit_bias": {"5": -100},
            "max_tokens": 64,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,
            "return_progress": True,
        }
