"""A control that knows one snapshot and accepts every shipment, for measuring a door by itself.

Started with one JSON line on stdin: `{"snapshot": {...}, "path": "control.sock"}`; it ends with its parent. It speaks
the region's three calls and keeps count: `GET /bench/shipped` answers how many requests were opened and closed in the
journals that it was given, which shows that a measured door really recorded what it answered.
"""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tokenworks.metering.journal import scan
from tokenworks.metering.model import Closed, Opened

_HEAD_BYTES_MAX = 65_536


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes = b""


@dataclass
class Control:
    """What it knows. Invariant: a journal's position only grows."""

    snapshot: bytes
    etag: str
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    opened: int = 0
    closed: int = 0
    shipments: int = 0
    shipped_bytes: int = 0
    damaged: int = 0

    async def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Answer one call."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if url.path == "/region/v1/snapshot":
            return await self._snapshot(query)
        if parts[:3] == ["region", "v1", "journals"] and method == "GET" and len(parts) == 4:
            segment, offset = self.positions.get(parts[3], (0, 0))
            return _json(200, {"segment": segment, "offset": offset})
        if parts[:3] == ["region", "v1", "journals"] and method == "POST" and len(parts) == 5:
            return self._ship(parts[3], int(parts[4]), int(query.get("offset", "0")), body)
        if url.path == "/bench/shipped":
            counts = {
                name: getattr(self, name) for name in ("opened", "closed", "shipments", "shipped_bytes", "damaged")
            }
            return _json(200, counts)
        return _json(404, {"error": {"message": "not here", "type": "invalid_request_error", "code": "not_found"}})

    async def _snapshot(self, query: dict[str, str]) -> Answer:
        if query.get("etag") != self.etag:
            return Answer(200, self.snapshot)
        await asyncio.sleep(min(int(query.get("wait_ms", "0")), 60_000) / 1000)
        return Answer(304)

    def _ship(self, journal_id: str, segment: int, offset: int, content: bytes) -> Answer:
        stands = self.positions.get(journal_id, (0, 0))
        follows = (segment, offset) == stands or (segment > stands[0] and offset == 0)
        if not follows:
            return _json(409, {"segment": stands[0], "next_offset": stands[1]})
        found = scan(content)
        for entry in found.entries:
            self.opened += isinstance(entry.record, Opened)
            self.closed += isinstance(entry.record, Closed)
            self.damaged += entry.record is None
        self.shipments += 1
        self.shipped_bytes += len(content)
        self.positions[journal_id] = (segment, offset + len(content))
        return _json(200, {"segment": segment, "next_offset": offset + len(content)})


def _json(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode())


async def _serve(control: Control, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            answer = await control.answer(method, target, body)
            length = f"Content-Length: {len(answer.body)}\r\n" if answer.status != 304 else ""
            writer.write(
                f"HTTP/1.1 {answer.status} X\r\nContent-Type: application/json\r\n{length}\r\n".encode() + answer.body
            )
            await writer.drain()
            if headers.get("connection", "").lower() == "close":
                break
    writer.close()


async def _run(config: dict[str, object]) -> None:
    snapshot = config["snapshot"]
    assert isinstance(snapshot, dict)
    control = Control(json.dumps(snapshot).encode(), str(snapshot["etag"]))

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(control, reader, writer)

    server = await asyncio.start_unix_server(greet, str(config["path"]), limit=_HEAD_BYTES_MAX)
    parent = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(parent), sys.stdin
    )
    async with server:
        await parent.read()
    transport.close()
    os._exit(0)


def main() -> None:
    """Read the configuration and serve until the parent is gone."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 65_536)
        if not byte:
            return
        line += byte
    asyncio.run(_run(json.loads(line)))


if __name__ == "__main__":
    main()
