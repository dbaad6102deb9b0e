"""What serving needs from outside: engines, and the files of models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenworks.cluster.model import ProcessSpec
from tokenworks.serving.model import Deployment


@dataclass(frozen=True, slots=True)
class ReplicaWanted:
    """What an engine needs to know to run one replica."""

    replica_id: str
    deployment: Deployment
    model_path: Path
    key: str
    """Opens the replica's port; nobody else may use it."""
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica says of itself."""

    requests_running: int
    """In its slots and in its queue."""
    tokens_generated: int
    """Since it was started."""


class Probe(Protocol):
    """Looks whether a replica lives."""

    async def generate(self, address: str, key: str, timeout_ms: int) -> None:
        """Let it generate one token.

        Raises:
            UpstreamError: no token came; the message says why.
        """
        ...

    async def measure(self, address: str, key: str, timeout_ms: int) -> Load:
        """Ask the loop that generates (not a health page) for its counters: cheap.

        Raises:
            UpstreamError: it does not answer.
        """
        ...


class Engine(Probe, Protocol):
    """A program that runs models."""

    def make_process(self, wanted: ReplicaWanted) -> ProcessSpec:
        """How to run it."""
        ...


class ModelFiles(Protocol):
    """Where the files of models are."""

    async def local_path(self, model: str) -> Path:
        """Path on this machine of the file of the model `namespace/name`.

        Raises:
            NotFoundError: the catalogue does not have it.
        """
        ...
