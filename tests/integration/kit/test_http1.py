"""Our HTTP client: what comes back from an upstream that behaves, is slow, is gone, or talks nonsense."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.gateway.harness import until
from tests.integration.gateway.upstream import Asked, say_nothing, upstream
from tokenworks.kit import http1
from tokenworks.kit.errors import UpstreamError, UpstreamTimeoutError
from tokenworks.kit.http1 import Connection, Header, Pool, fetch, request_bytes

GET = request_bytes("GET", "/", "x")


class Heard:
    """A receiver that keeps what it hears."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.ends: list[str] = []
        self.error: Exception | None = None
        self.is_stale = False
        self._fails_at = fails_at

    def on_head(self, status: int, headers: list[Header]) -> None:
        self.status, self.headers = status, headers
        self._fail("head")

    def on_body(self, data: bytes) -> None:
        self.body += data
        self._fail("body")

    def on_end(self) -> None:
        self._fail("end")
        self.ends.append("end")

    def on_lost(self, error: Exception, *, is_stale: bool) -> None:
        self.ends.append("lost")
        self.error, self.is_stale = error, is_stale

    def _fail(self, where: str) -> None:
        if self._fails_at == where:
            raise KeyError("a bug of the receiver")

    async def wait(self) -> "Heard":
        await until(lambda: self.ends)
        return self


async def ask(connection: Connection, *, is_head: bool = False) -> Heard:
    heard = Heard()
    method = "HEAD" if is_head else "GET"
    connection.send(request_bytes(method, "/", "x"), heard, is_head=is_head)
    return await heard.wait()


# fetch


@pytest.mark.parametrize("is_unix", [True, False], ids=["unix", "tcp"])
async def test_a_call_brings_status_headers_and_body(is_unix: bool) -> None:
    async def answer(asked: Asked) -> None:
        await asked.reply(asked.body[::-1], 201, b"X-One: 1\r\n")

    async with upstream(is_unix=is_unix) as fake:
        fake.answering = answer
        got = await fetch(fake.address, "POST", "/a?b=c", headers=[("x-two", "2")], body=b"abc", timeout_ms=2000)
        assert (got.status, got.headers["x-one"], got.body) == (201, "1", b"cba")
        (asked,) = fake.asked
        assert (asked.method, asked.target) == ("POST", "/a?b=c")
        assert f"host: {'localhost' if is_unix else fake.address}\r\n".encode() in asked.head
        assert b"x-two: 2\r\n" in asked.head
        assert b"connection: close\r\n" in asked.head


async def test_nobody_there_is_an_upstream_error(tmp_path: Path) -> None:
    async with upstream(is_unix=False) as fake:
        address = fake.address
    for away in (address, f"unix:{tmp_path}/none.sock"):
        with pytest.raises(UpstreamError, match="GET /x on "):
            await fetch(away, "GET", "/x", timeout_ms=2000)


async def test_no_answer_in_time_is_a_timeout_that_ends_the_connection() -> None:
    gone = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await asked.gone()
        gone.set()

    async with upstream() as fake:
        fake.answering = wait
        with pytest.raises(UpstreamTimeoutError, match="no answer within 20 ms"):
            await fetch(fake.address, "GET", "/x", timeout_ms=20)
        await asyncio.wait_for(gone.wait(), 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nonsense\r\n\r\n", "did not speak HTTP"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "switch protocols"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "lost"),
        (b"", "lost"),
    ],
    ids=["nonsense", "upgrade", "cut", "nothing"],
)
async def test_what_is_no_whole_answer_is_an_upstream_error(data: bytes, message: str) -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(data)
        asked.close()

    async with upstream() as fake:
        fake.answering = answer
        with pytest.raises(UpstreamError, match=message):
            await fetch(fake.address, "GET", "/x", timeout_ms=2000)


async def test_an_answer_over_the_limit_is_an_upstream_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def long(asked: Asked) -> None:
        await asked.reply(b"x" * 400_000)

    monkeypatch.setattr(http1, "_FETCH_BYTES_MAX", 1000)
    async with upstream() as fake:
        fake.answering = long
        with pytest.raises(UpstreamError, match="over 1000 bytes"):
            await fetch(fake.address, "GET", "/x", timeout_ms=2000)


async def test_what_comes_after_the_outcome_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_FETCH_BYTES_MAX", 3)
    collector = http1._Collector()
    collector.on_head(200, [])
    collector.on_body(b"four")
    collector.on_body(b"more")
    collector.on_end()
    collector.on_lost(OSError("late"), is_stale=False)
    with pytest.raises(UpstreamError, match="over 3 bytes"):
        await collector.done


# connections


@pytest.mark.parametrize("is_unix", [True, False], ids=["unix", "tcp"])
async def test_a_connection_is_used_again(is_unix: bool) -> None:
    async with upstream(is_unix=is_unix) as fake:
        pool = Pool(fake.address, 1000)
        connection = await pool.open()
        for _ in range(3):
            assert (await ask(connection)).body == b"hello"
            again = pool.take()
            assert again is connection
        assert fake.connections == 1
        connection.abort()


async def test_interim_answers_are_skipped() -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asked.reply(b"hello")

    async with upstream() as fake:
        fake.answering = answer
        heard = await ask(await Pool(fake.address, 1000).open())
        assert (heard.status, heard.body, heard.ends) == (200, b"hello", ["end"])


async def test_an_answer_without_length_ends_with_its_connection() -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        asked.close()

    async with upstream() as fake:
        fake.answering = answer
        pool = Pool(fake.address, 1000)
        heard = await ask(await pool.open())
        assert heard.body == b"hello"
        assert pool.take() is None


async def test_an_answer_to_head_has_no_body_and_its_connection_is_not_used_again() -> None:
    async with upstream() as fake:
        pool = Pool(fake.address, 1000)
        heard = await ask(await pool.open(), is_head=True)
        assert (heard.status, heard.body, heard.ends) == (200, b"", ["end"])
        assert pool.take() is None


async def test_an_upstream_that_says_close_is_not_used_again() -> None:
    async def answer(asked: Asked) -> None:
        await asked.reply(b"hello", headers=b"connection: close\r\n")

    async with upstream() as fake:
        fake.answering = answer
        pool = Pool(fake.address, 1000)
        assert (await ask(await pool.open())).ends == ["end"]
        assert pool.take() is None


async def test_a_paused_connection_is_read_again_after_it_was_returned() -> None:
    async with upstream() as fake:
        pool = Pool(fake.address, 1000)
        connection = await pool.open()

        class Pausing(Heard):
            def on_body(self, data: bytes) -> None:
                super().on_body(data)
                connection.pause()
                connection.pause()

        first = Pausing()
        connection.send(GET, first)
        await first.wait()
        assert pool.take() is connection
        assert (await ask(connection)).body == b"hello"
        connection.abort()


async def test_a_paused_connection_is_not_read_until_it_is_resumed() -> None:
    async with upstream() as fake:
        connection = await Pool(fake.address, 1000).open()
        heard = Heard()
        connection.pause()
        connection.send(GET, heard)
        await until(lambda: fake.asked)
        await asyncio.sleep(0.01)
        assert heard.ends == []
        connection.resume()
        connection.resume()
        assert (await heard.wait()).body == b"hello"
        connection.abort()
        connection.pause()
        connection.resume()


async def test_a_used_connection_that_dies_without_a_word_is_stale() -> None:
    async def once(asked: Asked) -> None:
        if len(fake.asked) == 1:
            await asked.reply(b"hello")
        else:
            asked.die()

    async with upstream() as fake:
        fake.answering = once
        connection = await Pool(fake.address, 1000).open()
        assert (await ask(connection)).ends == ["end"]
        heard = await ask(connection)
        assert (heard.ends, heard.is_stale) == (["lost"], True)
        late = await ask(connection)  # what is sent on a closed connection is lost too, and may be sent again
        assert (late.ends, late.is_stale) == (["lost"], True)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"], ids=["new", "half"])
async def test_a_connection_that_is_new_or_has_said_something_is_not_stale(data: bytes) -> None:
    async def answer(asked: Asked) -> None:
        if data and len(fake.asked) == 1:
            await asked.reply(b"hello")
        else:
            await asked.send(data)
            asked.close()

    async with upstream() as fake:
        fake.answering = answer
        connection = await Pool(fake.address, 1000).open()
        if data:
            await ask(connection)
        heard = await ask(connection)
        assert (heard.ends, heard.is_stale) == (["lost"], False)


async def test_after_an_abort_nothing_more_is_heard() -> None:
    async with upstream() as fake:
        fake.answering = say_nothing
        connection = await Pool(fake.address, 1000).open()
        heard = Heard()
        connection.send(GET, heard)
        connection.abort()
        await until(lambda: not connection.is_usable)
        await asyncio.sleep(0.01)
        connection.abort()
        assert heard.ends == []


@pytest.mark.parametrize("where", ["head", "body", "end"])
async def test_a_bug_of_a_receiver_ends_its_own_answer(where: str) -> None:
    async with upstream() as fake:
        connection = await Pool(fake.address, 1000).open()
        heard = Heard(fails_at=where)
        connection.send(GET, heard)
        await heard.wait()
        assert heard.ends == ["lost"]
        assert not heard.is_stale


async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    async def more(asked: Asked) -> None:
        await asked.reply(b"hello")
        await asyncio.sleep(0.005)
        await asked.reply(b"more")

    async with upstream() as fake:
        fake.answering = more
        pool = Pool(fake.address, 1000)
        connection = await pool.open()
        assert (await ask(connection)).body == b"hello"
        await until(lambda: not connection.is_usable)
        assert pool.take() is None


async def test_an_answer_without_a_body_that_nobody_asked_for_closes_the_connection() -> None:
    async def more(asked: Asked) -> None:
        await asked.reply(b"hello")
        await asyncio.sleep(0.005)
        await asked.reply(b"")

    async with upstream() as fake:
        fake.answering = more
        connection = await Pool(fake.address, 1000).open()
        assert (await ask(connection)).body == b"hello"
        await until(lambda: not connection.is_usable)


async def test_an_end_that_comes_with_the_last_bytes_is_passed_on_once() -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")

    async with upstream() as fake:
        fake.answering = answer
        heard = await ask(await Pool(fake.address, 1000).open())
        assert (heard.body, heard.ends) == (b"hello", ["end"])


# pools


async def _connected(pool: Pool) -> Connection | Exception:
    made: asyncio.Future[Connection | Exception] = asyncio.get_running_loop().create_future()
    pool.connect(made.set_result)
    return await asyncio.wait_for(made, 2)


async def test_a_pool_brings_a_connection_or_the_reason() -> None:
    async with upstream() as fake:
        pool = Pool(fake.address, 1000)
        assert pool.take() is None
        connection = await _connected(pool)
        assert isinstance(connection, Connection)
        assert (await ask(connection)).body == b"hello"
        pool.close()
    assert isinstance(await _connected(Pool(fake.address, 1000)), OSError)


async def test_a_connection_that_takes_too_long_is_a_timeout() -> None:
    class Slow(Pool):
        async def open(self) -> Connection:
            await asyncio.Event().wait()
            return await super().open()

    assert isinstance(await _connected(Slow("x:1", 10)), UpstreamTimeoutError)


async def test_what_was_idle_too_long_is_dropped() -> None:
    async with upstream() as fake:
        pool = Pool(fake.address, 1000)
        connections = [await pool.open() for _ in range(2)]
        for connection in connections:
            await ask(connection)
        pool.drop_idle()
        assert all(connection.is_usable for connection in connections)
        connections[0].idle_since -= 10
        pool.drop_idle()
        await until(lambda: not connections[0].is_usable)
        connections[1].idle_since -= 10
        assert pool.take() is None
        await until(lambda: not connections[1].is_usable)


async def test_an_idle_connection_that_the_upstream_closed_is_forgotten() -> None:
    async def answer_and_close(asked: Asked) -> None:
        await asked.reply(b"hello")
        asked.close()

    async with upstream() as fake:
        fake.answering = answer_and_close
        pool = Pool(fake.address, 1000)
        connection = await pool.open()
        await ask(connection)
        await until(lambda: not connection.is_usable)
        assert pool.take() is None


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "full"])
async def test_a_pool_that_is_closed_or_full_keeps_nothing(is_closed: bool) -> None:
    async with upstream() as fake:
        pool = Pool(fake.address, 1000, idle_max=1)
        connections = [await pool.open() for _ in range(2)]
        await ask(connections[0])
        if is_closed:
            pool.close()
            await until(lambda: not connections[0].is_usable)
        assert (await ask(connections[1])).ends == ["end"]
        await until(lambda: not connections[1].is_usable)
        assert connections[0].is_usable is not is_closed
        pool.close()
