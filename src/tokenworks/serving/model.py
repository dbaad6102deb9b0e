"""Deployments and replicas.

Invariants: a replica has one deployment; its states move only along `pending -> starting -> ready -> draining ->
stopped`, or to `failed` from any of them; each state in between has a time limit and a reason a person can read.
"""

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_DEPLOYMENT = "smollm2-135m-instruct"
"""What every new tokenworks serves."""


class ReplicaState(StrEnum):
    """Where a replica is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What somebody wants served."""

    name: str
    model: str
    """Name in the catalogue, `namespace/name`."""
    aliases: tuple[str, ...]
    engine: str
    replicas: int
    slots: int
    """Requests that one replica runs at once."""
    context_tokens: int
    """Context per slot."""
    output_tokens_max: int
    """Cap on one answer's output tokens."""
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Replica:
    """One running (or failed) copy of a deployment."""

    replica_id: str
    deployment: str
    state: ReplicaState
    since_ms: int
    """Monotonic time of its last change of state: what every limit counts from."""
    reason: str
    address: str | None
    key: str
    pid: int | None
    restarts: int
    """How many starts failed in a row before this one."""
    engine: str = ""
    spec: str = ""
    """Digest of the deployment that it was started for; another one now means that it must go."""
    failing_since_ms: int | None = None
    """Since when (monotonic) a ready replica has not answered."""
    requests_running: int | None = None
    """Requests in its slots and its queue when it last answered."""
    since_ms_wall: int = 0
    """The moment of `since_ms` as people tell it; decides nothing, because that clock may be set."""
