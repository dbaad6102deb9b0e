"""Makes a snapshot out of what control knows. Pure: equal content gives an equal etag, in whatever order it came."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tokenworks.accounts.model import ApiKey
from tokenworks.region.model import Snapshot, SnapshotDeployment, SnapshotKey, SnapshotReplica
from tokenworks.serving.model import Deployment, Replica, ReplicaState

FORGET_KEY_MS = 86_400_000
"""A key that has been of no use for a day is left out; from then on it is unknown to the doors."""


def make_snapshot(
    keys: Iterable[ApiKey],
    deployments: Iterable[Deployment],
    replicas: Sequence[Replica],
    reasons: Mapping[str, str],
    *,
    doors: int,
    now_ms: int,
) -> Snapshot:
    """The snapshot for one of `doors` equal doors; `reasons` tell, by name, why a deployment cannot answer."""
    told = (key for key in keys if not _is_past(key, now_ms))
    snapshot_keys = tuple(_key(key) for key in sorted(told, key=lambda key: key.key_id))
    snapshot_deployments = tuple(
        _deployment(deployment, replicas, reasons, doors)
        for deployment in sorted(deployments, key=lambda deployment: deployment.name)
    )
    content = msgspec.json.encode((snapshot_keys, snapshot_deployments))
    etag = hashlib.sha256(content).hexdigest()[:32]
    return Snapshot(etag=etag, made_at_ms=now_ms, keys=snapshot_keys, deployments=snapshot_deployments)


def share_slots(slots: int, doors: int) -> int:
    """A door's share of a replica's slots: rounded down, but at least one, so that each door can serve."""
    return max(1, slots // doors)


def _is_past(key: ApiKey, now_ms: int) -> bool:
    ends_ms = (end_ms for end_ms in (key.revoked_at_ms, key.expires_at_ms) if end_ms is not None)
    return any(now_ms - end_ms > FORGET_KEY_MS for end_ms in ends_ms)


def _key(key: ApiKey) -> SnapshotKey:
    return SnapshotKey(
        key_sha256=key.key_sha256,
        key_id=key.key_id,
        organization=key.organization,
        project=key.project,
        scopes=tuple(scope.value for scope in key.scopes),
        expires_at_ms=key.expires_at_ms,
        is_revoked=key.is_revoked,
    )


def _deployment(
    deployment: Deployment, replicas: Sequence[Replica], reasons: Mapping[str, str], doors: int
) -> SnapshotDeployment:
    ready = [
        _replica(replica, share_slots(deployment.slots, doors))
        for replica in sorted(replicas, key=lambda replica: replica.replica_id)
        if replica.deployment == deployment.name and replica.state is ReplicaState.READY and replica.address is not None
    ]
    return SnapshotDeployment(
        name=deployment.name,
        aliases=deployment.aliases,
        engine=deployment.engine,
        context_tokens=deployment.context_tokens,
        output_tokens_max=deployment.output_tokens_max,
        slots=share_slots(deployment.slots, doors),
        created_at_s=deployment.created_at_ms // 1000,
        owner=deployment.model.partition("/")[0],
        is_ready=bool(ready),
        reason="" if ready else reasons[deployment.name],
        replicas=tuple(ready),
    )


def _replica(replica: Replica, slots: int) -> SnapshotReplica:
    assert replica.address is not None
    host, _, port = replica.address.rpartition(":")
    return SnapshotReplica(
        replica_id=replica.replica_id, host=host.strip("[]"), port=int(port), key=replica.key, slots=slots
    )
