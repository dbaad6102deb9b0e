"""A door's calls of control: what is asked, what is understood, and that nonsense is an error and no answer."""

import msgspec
import pytest

from tests.integration.gateway.upstream import Asked, FakeUpstream, upstream
from tokenworks.gateway.adapters.control import ControlClient
from tokenworks.kit.errors import UpstreamError
from tokenworks.metering.model import Position
from tokenworks.region.model import Snapshot, SnapshotKey


def _answers(fake: FakeUpstream, status: int, body: bytes) -> ControlClient:
    async def answer(asked: Asked) -> None:
        await asked.reply(body, status)

    fake.answering = answer
    return ControlClient(fake.address, "region-key")


async def test_a_snapshot_comes_by_its_etag_with_the_regions_key() -> None:
    snapshot = Snapshot("new", 1, (SnapshotKey("d", "key_1", "acme", "default", ("inference",)),), ())
    async with upstream() as fake:
        client = _answers(fake, 200, msgspec.json.encode(snapshot))
        assert await client.next("old") == snapshot
        (asked,) = fake.asked
        assert asked.target.startswith("/region/v1/snapshot?etag=old&wait_ms=")
        assert b"authorization: Bearer region-key\r\n" in asked.head


async def test_a_snapshot_that_still_holds_is_none() -> None:
    async def unchanged(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 304 Not Modified\r\n\r\n")

    async with upstream() as fake:
        client = _answers(fake, 304, b"")
        fake.answering = unchanged
        assert await client.next("e") is None


async def test_a_journals_position_is_asked_for() -> None:
    async with upstream() as fake:
        client = _answers(fake, 200, b'{"segment":3,"offset":40}')
        assert await client.position("door-1") == Position(3, 40)
        assert fake.asked[0].target == "/region/v1/journals/door-1"


@pytest.mark.parametrize("status", [200, 409], ids=["taken", "from elsewhere"])
async def test_a_shipment_says_where_the_next_one_begins(status: int) -> None:
    async with upstream() as fake:
        client = _answers(fake, status, b'{"segment":4,"next_offset":50}')
        assert await client.send("door-1", Position(4, 16), b"frames") == Position(4, 50)
        (asked,) = fake.asked
        assert (asked.method, asked.target) == ("POST", "/region/v1/journals/door-1/4?offset=16")
        assert asked.body == b"frames"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error":"no"}', "control answered 401"),
        (500, b"\xff", "control answered 500"),
        (409, b"{}", "control"),
        (200, b"{}", "cannot be read"),
        (200, b"\xff", "cannot be read"),
        (200, b'{"segment":"x"}', "cannot be read"),
    ],
)
async def test_what_is_not_expected_is_an_upstream_error(status: int, body: bytes, message: str) -> None:
    async with upstream() as fake:
        client = _answers(fake, status, body)
        for call in (client.next("e"), client.position("j"), client.send("j", Position(1, 0), b"")):
            with pytest.raises(UpstreamError, match="control"):
                await call
        with pytest.raises(UpstreamError, match=message):
            await client.position("j")


async def test_control_that_is_away_is_an_upstream_error() -> None:
    async with upstream() as fake:
        client = ControlClient(fake.address, "k")
    with pytest.raises(UpstreamError):
        await client.next("")
    with pytest.raises(UpstreamError):
        await client.position("j")
