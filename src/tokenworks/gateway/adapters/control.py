"""Control as a door calls it, over its unix socket: the snapshot by long poll, and the journal's shipments."""

from typing import TypeVar

import msgspec

from tokenworks.kit.errors import UpstreamError
from tokenworks.kit.http1 import Response, fetch
from tokenworks.metering.model import Position
from tokenworks.metering.wire import JournalPosition, JournalReached
from tokenworks.region.model import Snapshot

T = TypeVar("T")

_CALL_MS_MAX = 30_000
_POLL_MS = 10_000

_snapshot = msgspec.json.Decoder(Snapshot)
_position = msgspec.json.Decoder(JournalPosition)
_reached = msgspec.json.Decoder(JournalReached)


class ControlClient:
    """Both of a door's calls to control: `gateway.ports.SnapshotSource` and `metering.ports.UsageSink`."""

    def __init__(self, address: str, region_key: str) -> None:
        self._address = address
        self._headers = (("authorization", f"Bearer {region_key}"),)

    async def next(self, etag: str) -> Snapshot | None:
        answer = await self._call(
            "GET", f"/region/v1/snapshot?etag={etag}&wait_ms={_POLL_MS}", timeout_ms=_POLL_MS + 5_000
        )
        return None if answer.status == 304 else _decode(_snapshot, answer, (200,))

    async def position(self, journal_id: str) -> Position:
        answer = await self._call("GET", f"/region/v1/journals/{journal_id}")
        position = _decode(_position, answer, (200,))
        return Position(position.segment, position.offset)

    async def send(self, journal_id: str, position: Position, content: bytes) -> Position:
        path = f"/region/v1/journals/{journal_id}/{position.segment}?offset={position.offset}"
        reached = _decode(_reached, await self._call("POST", path, content), (200, 409))
        return Position(reached.segment, reached.next_offset)

    async def _call(self, method: str, path: str, body: bytes = b"", timeout_ms: int = _CALL_MS_MAX) -> Response:
        return await fetch(self._address, method, path, headers=self._headers, body=body, timeout_ms=timeout_ms)


def _decode(decoder: "msgspec.json.Decoder[T]", answer: Response, expected: tuple[int, ...]) -> T:
    if answer.status not in expected:
        raise UpstreamError(f"control answered {answer.status}: {answer.body[:300].decode('utf-8', 'replace')}")
    try:
        return decoder.decode(answer.body)
    except msgspec.DecodeError as error:
        raise UpstreamError(f"control's answer cannot be read: {error}") from error
