"""What `/admin/v1` says about deployments and replicas; `client` executes the calls."""

import msgspec

from tokenworks.client.call import Call


class DeploymentRow(msgspec.Struct, frozen=True):
    """A deployment and whether it can answer."""

    name: str
    model: str
    aliases: tuple[str, ...]
    engine: str
    replicas: int
    """Wanted."""
    replicas_ready: int
    slots: int
    context_tokens: int
    output_tokens_max: int
    created_at_ms: int
    is_ready: bool
    reason: str
    """Why it is not ready, in a sentence; empty when it is."""


class DeploymentList(msgspec.Struct, frozen=True):
    """All deployments, by name."""

    data: list[DeploymentRow]


class ReplicaRow(msgspec.Struct, frozen=True):
    """A replica, without the key that opens it."""

    id: str
    deployment: str
    state: str
    since_ms: int
    reason: str
    address: str | None
    pid: int | None
    restarts: int
    requests_running: int | None


class ReplicasWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which replicas to list; without a deployment all."""

    deployment: str | None = None


class ReplicaList(msgspec.Struct, frozen=True):
    """Replicas, in the order of their start."""

    data: list[ReplicaRow]


DEPLOYMENTS_LIST: Call[None, DeploymentList] = Call("GET", "/admin/v1/deployments", None, DeploymentList)
REPLICAS_LIST = Call("GET", "/admin/v1/replicas", ReplicasWanted, ReplicaList)
