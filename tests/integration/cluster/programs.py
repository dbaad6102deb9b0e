"""Small real children, as one line of `python -c`, on our own `cluster.child`."""

import sys
from collections.abc import Mapping
from pathlib import Path

from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.model import ProcessSpec
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.config import inherited_environment

SOURCE = str(Path(__file__).parents[3] / "src")
HEAD = """
import os, sys, signal, threading, time
from tokenworks.cluster.child import read_config, announce
config = read_config()
"""
ANNOUNCE = HEAD + "announce('127.0.0.1:%d' % config['port'])\nthreading.Event().wait()\n"
STUBBORN = (
    HEAD + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nannounce('127.0.0.1:1')\nwhile True: time.sleep(0.05)\n"
)
FAILS = HEAD + "sys.stderr.write('first line\\nthe model is missing\\n')\nsys.stderr.flush()\nos._exit(2)\n"


def environment() -> dict[str, str]:
    """What the children get, so that they find this checkout."""
    return {**inherited_environment(), "PYTHONPATH": SOURCE}


def make_spec(program: str, process_id: str = "a", **changes: object) -> ProcessSpec:
    """Return a spec that runs the program text."""
    config: Mapping[str, object] = {"port": 4711, "key": "secret"}
    fields: dict[str, object] = {"config": config, "log_name": process_id, "stop_ms_max": 5_000, **changes}
    return ProcessSpec(process_id, (sys.executable, "-c", program), **fields)  # type: ignore[arg-type]  # named by tests


def make_local(folder: Path, **changes: int) -> LocalProcesses:
    """Return processes that run and log in the folder."""
    return LocalProcesses(folder, folder, environment(), SystemClock(), **changes)  # type: ignore[arg-type]  # as above
