"""The log of a process: appended to, and never over its size.

Over the limit the file becomes `NAME.1`, replacing the one before, so a log holds at most twice its limit. A log that
cannot be written loses lines; it never stops the process that it is about.
"""

import os
from pathlib import Path

_LINE_BYTES_MAX = 8192


class LogFile:
    """One process's log, kept open. The file appears with the first line."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._descriptor: int | None = None
        self._size = 0
        self._partial = b""
        self.last_line = ""

    def write(self, data: bytes) -> None:
        """Append bytes as they came from the process."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LINE_BYTES_MAX:]
        for line in reversed(lines):
            if line.strip():
                self.last_line = _readable(line)
                break
        try:
            self._append(data)
        except OSError:
            self._release()

    def close(self) -> None:
        """The process has ended: what it wrote last counts as a line."""
        if self._partial.strip():
            self.last_line = _readable(self._partial)
        self._partial = b""
        self._release()

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        if self._size + len(data) > self._bytes_max and self._size > 0:
            self._release()
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            self._append(data)
            return
        self._size += os.write(self._descriptor, data)

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _readable(line: bytes) -> str:
    return line[-_LINE_BYTES_MAX:].decode("utf-8", "replace").strip()[:1000]
