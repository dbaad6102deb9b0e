"""The child's side of a process that tokenworks starts: its configuration, its parent's death, its address.

A child is given one JSON object as the first line of stdin, which then stays open. End of file there means that the
parent is gone, and the child exits at once, so that a killed parent leaves no orphan. On Linux the kernel is asked to
do the same. A child that listens tells its parent where by one line on stdout: `TOKENWORKS_ADDRESS host:port`.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from tokenworks.kit.errors import StartError

ADDRESS_WORD = "TOKENWORKS_ADDRESS"
"""First word of the line that announces an address."""

ORPHAN_EXIT_CODE = 3
"""How a child exits whose parent is gone."""

_STDIN = 0
_STDOUT = 1
_CONFIG_BYTES_MAX = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


def read_config() -> dict[str, Any]:
    """Read the configuration from stdin and from now on die with the parent. Call it once, first thing in `main`.

    Raises:
        StartError: stdin does not hold one line with a JSON object.
    """
    _die_with_parent()
    config = _parse(_read_line(_STDIN))
    threading.Thread(target=_watch, args=(_STDIN, _exit), name="parent-watch", daemon=True).start()
    return config


def announce(address: str) -> None:
    """Tell the parent that this process listens at `address` (`host:port`)."""
    os.write(_STDOUT, f"{ADDRESS_WORD} {address}\n".encode())


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        _exit()


def _read_line(descriptor: int) -> bytes:
    # os.read, not sys.stdin: the watching thread must hold no lock of a buffer that the interpreter takes at its end.
    content = bytearray()
    while not content.endswith(b"\n") and len(content) <= _CONFIG_BYTES_MAX:
        part = os.read(descriptor, 65_536)
        if not part:
            break
        content += part
    return bytes(content)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        config = json.loads(line)
    except ValueError as error:
        raise StartError(
            "this program is a part of tokenworks and expects its configuration on stdin; start it with 'tokenworks up'"
        ) from error
    if not isinstance(config, dict):
        raise StartError("the configuration on stdin must be one JSON object")
    return config


def _watch(descriptor: int, gone: Callable[[], None]) -> None:
    while True:
        try:
            if not os.read(descriptor, 65_536):
                break
        except OSError:
            break
    gone()


def _exit() -> None:
    os._exit(ORPHAN_EXIT_CODE)
