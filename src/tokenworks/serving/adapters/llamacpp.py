"""llama.cpp's server (xllamacpp) as an engine: how to run `server/replica.py`, and how to look whether it lives.

`/health` answers while the loop that generates is stuck, so a replica counts as alive when `/metrics` answers: that
loop answers it, between two batches.
"""

import re
from dataclasses import dataclass

import msgspec

from tokenworks.cluster.model import ProcessSpec
from tokenworks.kit.errors import UpstreamError
from tokenworks.kit.http1 import Response, fetch
from tokenworks.serving.ports import Load, ReplicaWanted

_COUNTER = re.compile(rb"^llamacpp:(\w+) (\d+)", re.MULTILINE)
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*([1-9]\d*)')


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Implements `Engine`."""

    python: str
    """Interpreter that has xllamacpp."""
    threads: int
    """Of each replica."""

    def make_process(self, wanted: ReplicaWanted) -> ProcessSpec:
        deployment = wanted.deployment
        return ProcessSpec(
            process_id=wanted.replica_id,
            argv=(self.python, "-m", "tokenworks.server.replica"),
            config={
                "model_path": str(wanted.model_path),
                "model_name": deployment.name,
                "slots": deployment.slots,
                "context_tokens": deployment.context_tokens,
                "threads": self.threads,
                "key": wanted.key,
            },
            log_name=f"replica-{deployment.name}",
            # Threads that spin between two tokens take the cores from everybody else.
            environment={"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(self.threads)},
            labels=wanted.labels,
        )

    async def generate(self, address: str, key: str, timeout_ms: int) -> None:
        # Streamed, because the engine does not notice the other kind of client leaving.
        body = {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = await fetch(
            address,
            "POST",
            "/v1/chat/completions",
            headers=(("authorization", f"Bearer {key}"), ("content-type", "application/json")),
            body=msgspec.json.encode(body),
            timeout_ms=timeout_ms,
        )
        _check(answer)
        if _COMPLETION_TOKENS.search(answer.body) is None:
            raise UpstreamError(f"it answered without a token: {_shorten(answer.body)}")

    async def measure(self, address: str, key: str, timeout_ms: int) -> Load:
        answer = await fetch(
            address,
            "GET",
            "/metrics",
            headers=(("authorization", f"Bearer {key}"),),
            timeout_ms=timeout_ms,
        )
        _check(answer)
        counters = {name.decode(): int(value) for name, value in _COUNTER.findall(answer.body)}
        try:
            return Load(
                requests_running=counters["requests_processing"] + counters["requests_deferred"],
                tokens_generated=counters["tokens_predicted_total"],
            )
        except KeyError as error:
            raise UpstreamError(f"its metrics lack {error}") from error


def _check(answer: Response) -> None:
    if answer.status != 200:
        raise UpstreamError(f"it answered {answer.status}: {_shorten(answer.body)}")


def _shorten(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace").strip()
