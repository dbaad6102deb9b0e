"""A door that can be looked into: SIGUSR2 makes it write what lives in its memory to `observed.json`.

Only for `leak`: a task or a connection that was forgotten is seen here by its name, long before memory shows it.
"""

import asyncio
import gc
import json
import runpy
import signal
import threading
from collections import Counter
from pathlib import Path

FILE = "observed.json"


def observe() -> dict[str, dict[str, int]]:
    """Count the tasks that are not done by the name of their coroutine, and the objects of our own types."""
    gc.collect()
    tasks: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if isinstance(thing, asyncio.Task) and not thing.done():
            tasks[getattr(thing.get_coro(), "__qualname__", "unknown")] += 1
        elif str(kind.__module__).startswith("tokenworks."):  # of some types it is a descriptor
            objects[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return {"tasks": dict(tasks), "objects": dict(objects), "threads": {"threads": threading.active_count()}}


def _answer(*_: object) -> None:
    draft = Path(f"{FILE}.new")
    draft.write_text(json.dumps(observe()))
    draft.replace(FILE)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _answer)
    runpy.run_module("tokenworks.server.door", run_name="__main__", alter_sys=True)
