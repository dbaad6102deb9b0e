"""What doors and control say to each other under `/region/v1` (see also `model.py`), and the status."""

from typing import Annotated

import msgspec

from tokenworks.client.call import Call

_INT_MAX = 2**63 - 1
"""What a database keeps."""


class SnapshotWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give me the snapshot, or, if mine is current, wait a while for the next."""

    etag: str = ""
    wait_ms: int = 0


class JournalNamed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One door's journal."""

    journal_id: str


class Shipment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a journal, its bytes in the body: whole records of `segment`, beginning at `offset`."""

    journal_id: str
    segment: Annotated[int, msgspec.Meta(ge=0, le=_INT_MAX)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=_INT_MAX)]


class DeploymentStatus(msgspec.Struct, frozen=True):
    """A deployment, and whether it can answer."""

    name: str
    model: str
    engine: str
    is_ready: bool
    reason: str
    replicas_wanted: int
    replicas_ready: int


class ReplicaStatus(msgspec.Struct, frozen=True):
    """A replica that control knows of."""

    id: str
    deployment: str
    state: str
    reason: str
    since_ms: int
    pid: int | None
    restarts: int


class ProcessStatus(msgspec.Struct, frozen=True):
    """A process that the supervisor runs, or ran."""

    id: str
    pid: int
    started_at_ms: int
    exit_code: int | None


class JournalStatus(msgspec.Struct, frozen=True):
    """Up to where control has a door's journal, and when the last of it came."""

    id: str
    segment: int
    offset: int
    moved_at_ms: int


class Status(msgspec.Struct, frozen=True):
    """How this tokenworks is."""

    version: str
    is_ready: bool
    """True when every deployment can answer."""
    started_at_ms: int
    now_ms: int
    doors: int
    deployments: list[DeploymentStatus]
    replicas: list[ReplicaStatus]
    processes: list[ProcessStatus]
    journals: list[JournalStatus]


STATUS: Call[None, Status] = Call("GET", "/admin/v1/status", None, Status)
