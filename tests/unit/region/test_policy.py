"""The snapshot: what doors learn, and when its etag moves."""

from dataclasses import replace

from tokenworks.accounts.model import ApiKey, Scope
from tokenworks.region.model import Snapshot
from tokenworks.region.policy import FORGET_KEY_MS, make_snapshot, share_slots
from tokenworks.serving.model import Deployment, Replica, ReplicaState

KEY = ApiKey("key_1", "a" * 64, "team", "blue", (Scope.INFERENCE, Scope.HUB_READ), 1, 99, 50)
DEPLOYMENT = Deployment("smol", "default/Smol", ("default/Smol",), "llamacpp", 1, 16, 2048, 1024, 5_999)
READY = Replica("replica_1", "smol", ReplicaState.READY, 7, "", "127.0.0.1:4711", "secret", 12, 0)
DEAD = Replica("replica_0", "smol", ReplicaState.FAILED, 6, "it exited with 1", None, "old", None, 3)


def snapshot(
    keys: list[ApiKey] | None = None, replicas: list[Replica] | None = None, doors: int = 1, now_ms: int = 1
) -> Snapshot:
    return make_snapshot(
        [KEY] if keys is None else keys,
        [DEPLOYMENT],
        [READY] if replicas is None else replicas,
        {"smol": "it is starting"},
        doors=doors,
        now_ms=now_ms,
    )


def test_a_revoked_key_stays_in_it() -> None:
    (key,) = snapshot().keys
    assert (key.key_sha256, key.key_id, key.organization, key.project) == ("a" * 64, "key_1", "team", "blue")
    assert key.scopes == ("inference", "hub:read")
    assert key.expires_at_ms == 99
    assert key.is_revoked


def test_a_key_that_ended_long_ago_is_left_out() -> None:
    revoked = replace(KEY, expires_at_ms=None)
    expired = replace(KEY, revoked_at_ms=None)
    assert len(snapshot([revoked], now_ms=50 + FORGET_KEY_MS).keys) == 1
    assert snapshot([revoked], now_ms=51 + FORGET_KEY_MS).keys == ()
    assert len(snapshot([expired], now_ms=99 + FORGET_KEY_MS).keys) == 1
    assert snapshot([expired], now_ms=100 + FORGET_KEY_MS).keys == ()
    assert len(snapshot([replace(KEY, revoked_at_ms=None, expires_at_ms=None)], now_ms=10 * FORGET_KEY_MS).keys) == 1


def test_only_ready_replicas_are_in_it() -> None:
    starting = replace(READY, replica_id="replica_2", state=ReplicaState.STARTING)
    (deployment,) = snapshot(replicas=[starting, READY, DEAD]).deployments
    (replica,) = deployment.replicas
    assert (replica.replica_id, replica.host, replica.port, replica.key) == ("replica_1", "127.0.0.1", 4711, "secret")
    assert replica.slots == 16
    assert deployment.is_ready
    assert deployment.reason == ""
    assert (deployment.owner, deployment.created_at_s, deployment.aliases) == ("default", 5, ("default/Smol",))


def test_an_address_may_be_of_version_six() -> None:
    (deployment,) = snapshot(replicas=[replace(READY, address="[::1]:80")]).deployments
    assert (deployment.replicas[0].host, deployment.replicas[0].port) == ("::1", 80)


def test_a_deployment_without_a_ready_replica_says_why() -> None:
    for replicas in ([], [DEAD], [replace(READY, address=None)], [replace(READY, deployment="other")]):
        (deployment,) = snapshot(replicas=replicas).deployments
        assert not deployment.is_ready
        assert deployment.reason == "it is starting"
        assert deployment.replicas == ()


def test_slots_are_divided_over_the_doors() -> None:
    assert share_slots(16, 1) == 16
    assert share_slots(16, 3) == 5
    assert share_slots(2, 3) == 1
    assert snapshot(doors=4).deployments[0].replicas[0].slots == 4


def test_the_etag_is_of_the_content_alone() -> None:
    other = replace(KEY, key_id="key_2", key_sha256="b" * 64)
    assert snapshot().etag == snapshot(now_ms=2).etag
    assert snapshot([KEY, other]).etag == snapshot([other, KEY]).etag
    etags = {
        snapshot().etag,
        snapshot([]).etag,
        snapshot([replace(KEY, revoked_at_ms=None)]).etag,
        snapshot(replicas=[]).etag,
        snapshot(replicas=[replace(READY, key="new")]).etag,
        snapshot(doors=2).etag,
    }
    assert len(etags) == 6
    assert all(len(etag) == 32 for etag in etags)
