"""Reads server-sent events as `/v1` sends them: `data:` lines, an empty line after each event, `[DONE]` at the end.

Source: WHATWG HTML, section 9.2 "Server-sent events". Only what an OpenAI-compatible server sends: no event names or
ids. A stream that ends without `[DONE]` was cut, and says so.
"""

from collections.abc import Iterator
from typing import Protocol

from tokenworks.kit.errors import UpstreamError

DONE = b"[DONE]"
"""Payload of the last event."""

_LINE_BYTES_MAX = 16 * 1024 * 1024


class Lines(Protocol):
    """What is read from: an HTTP response, or any binary file."""

    def readline(self, limit: int = -1, /) -> bytes:
        """One line with its end, or b"" when there are no more."""
        ...


def read_events(lines: Lines) -> Iterator[bytes]:
    """Yield the payload of each event before `[DONE]`.

    Raises:
        UpstreamError: the stream ended early, or a line has no end.
    """
    payload: list[bytes] = []
    while line := lines.readline(_LINE_BYTES_MAX):
        if not line.endswith(b"\n"):
            break
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            payload.append(text[5:].removeprefix(b" "))
        elif not text and payload:
            event = b"\n".join(payload)
            if event == DONE:
                return
            yield event
            payload.clear()
    raise UpstreamError("the answer was cut before its end", code="stream_cut")
