"""The snapshot: everything that a door needs to know to serve, in one immutable value.

`etag` is a digest of the content, so versions need no counter that must survive a restart of control.
"""

import msgspec


class SnapshotKey(msgspec.Struct, frozen=True):
    """An API key as doors know it: by the SHA-256 of its text, never the text."""

    key_sha256: str
    key_id: str
    organization: str
    project: str
    scopes: tuple[str, ...]
    expires_at_ms: int | None = None
    is_revoked: bool = False


class SnapshotReplica(msgspec.Struct, frozen=True):
    """A ready replica: where it listens and the key that opens it. `slots` is this door's share."""

    replica_id: str
    host: str
    port: int
    key: str
    slots: int


class SnapshotDeployment(msgspec.Struct, frozen=True):
    """A model that can be asked for, under its name and its aliases."""

    name: str
    aliases: tuple[str, ...]
    engine: str
    context_tokens: int
    output_tokens_max: int
    slots: int
    """This door's share of one replica's slots, whether one is ready or not."""
    created_at_s: int
    owner: str
    is_ready: bool
    """True once a replica has produced an answer, and as long as one is ready."""
    reason: str
    """Why it is not ready, in a sentence; empty when it is."""
    replicas: tuple[SnapshotReplica, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """What control tells a door."""

    etag: str
    made_at_ms: int
    keys: tuple[SnapshotKey, ...]
    deployments: tuple[SnapshotDeployment, ...]
