"""Real `openai` clients that ask without pause, and remember what they were told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openai

from tokenworks.testing.running import Running

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Ended:
    """An answer whose end a client got."""

    request_id: str
    input_tokens: int
    output_tokens: int


@dataclass
class Load:
    """What the clients saw."""

    ended: list[Ended] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    async def more(self, count: int) -> None:
        """Wait until so many more answers have ended."""
        goal = len(self.ended) + count
        async with asyncio.timeout(90):
            while len(self.ended) < goal:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def load(tokenworks: Running, clients: int, *, leaving: bool = False) -> AsyncIterator[Load]:
    """Keep `clients` streams running; of every three streams one leaves midway if `leaving`."""
    seen = Load()
    stopping = asyncio.Event()
    client = openai.AsyncOpenAI(
        base_url=f"{tokenworks.url}/v1", api_key=tokenworks.key, max_retries=0, timeout=openai.Timeout(60, connect=20)
    )
    async with client, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(_ask_on(client, seen, stopping, number, leaving))
        try:
            yield seen
        finally:
            stopping.set()


async def _ask_on(client: openai.AsyncOpenAI, seen: Load, stopping: asyncio.Event, number: int, leaving: bool) -> None:
    while not stopping.is_set():
        number += 1
        try:
            await _ask(client, seen, number, leaves=leaving and number % 3 == 0)
        except openai.APIError as error:
            seen.errors.append(error)
            await asyncio.sleep(0.05)


async def _ask(client: openai.AsyncOpenAI, seen: Load, number: int, *, leaves: bool) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Count from {number}."}],
        max_tokens=6 + number % 9,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    request_id = stream.response.headers["x-request-id"]
    chunks = 0
    async for chunk in stream:
        chunks += 1
        if leaves and chunks == 4:
            await stream.close()
            seen.left.append(request_id)
            return
        if chunk.usage is not None:
            usage = chunk.usage
            seen.ended.append(Ended(request_id, usage.prompt_tokens, usage.completion_tokens))


def child_pid(parent: int, module: str) -> int:
    """The process `python -m MODULE` among the children of `parent`."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if ppid == parent and module.encode() in words:
            return int(folder.name)
    raise LookupError(f"no {module} below {parent}")
