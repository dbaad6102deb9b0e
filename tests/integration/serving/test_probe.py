"""What the probe makes of answers that an engine should not give."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tokenworks.kit.errors import UpstreamError
from tokenworks.serving.adapters.llamacpp import LlamaCpp
from tokenworks.serving.ports import Load

ENGINE = LlamaCpp("python", 1)
METRICS = b"""# TYPE a gauge
llamacpp:requests_processing 2
llamacpp:requests_deferred 3
llamacpp:tokens_predicted_total 70
"""


class Answering:
    """A port that gives one answer to everybody."""

    def __init__(self) -> None:
        self.answer = b""
        self.address = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(self.answer)
        writer.write(head + self.answer)
        writer.close()


@pytest.fixture
async def engine() -> AsyncIterator[Answering]:
    answering = Answering()
    server = await asyncio.start_server(answering.talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    answering.address = f"{host}:{port}"
    yield answering
    server.close()
    await server.wait_closed()


async def test_counters_are_read(engine: Answering) -> None:
    engine.answer = METRICS
    assert await ENGINE.measure(engine.address, "k", 2_000) == Load(5, 70)


async def test_missing_counters_are_a_sentence(engine: Answering) -> None:
    engine.answer = b"llamacpp:requests_processing 2\n"
    with pytest.raises(UpstreamError, match="lack 'requests_deferred'"):
        await ENGINE.measure(engine.address, "k", 2_000)


@pytest.mark.parametrize("usage", [b'{"completion_tokens":0}', b"{}", b""])
async def test_an_answer_without_a_token_is_no_life(engine: Answering, usage: bytes) -> None:
    engine.answer = b'data: {"usage":' + usage + b"}\n\n"
    with pytest.raises(UpstreamError, match="without a token"):
        await ENGINE.generate(engine.address, "k", 2_000)


async def test_a_token_is_life(engine: Answering) -> None:
    engine.answer = b'data: {"usage":{"completion_tokens":1,"prompt_tokens":31}}\n\ndata: [DONE]\n\n'
    await ENGINE.generate(engine.address, "k", 2_000)
