"""What doors are told of replicas, and why a deployment cannot answer."""

from dataclasses import replace

import pytest

from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.service import Serving, explain

DEPLOYMENT = Deployment("small", "default/small", (), "llamacpp", 1, 4, 2048, 2048, 1)
REPLICA = Replica("replica_1", "small", ReplicaState.STARTING, 5, "the model is being loaded", None, "k", 7, 0)


async def test_doors_hear_of_what_they_see() -> None:
    heard: list[int] = []
    serving = Serving(lambda: heard.append(1))
    serving.put_replica(REPLICA)
    serving.put_replica(REPLICA)
    serving.put_replica(replace(REPLICA, requests_running=3, pid=8))
    assert len(heard) == 1
    serving.put_replica(replace(REPLICA, address="127.0.0.1:1"))
    serving.put_replica(replace(REPLICA, address="127.0.0.1:1", state=ReplicaState.READY))
    assert len(heard) == 3
    serving.forget_replica("replica_1")
    serving.forget_replica("replica_1")
    assert len(heard) == 4


async def test_replicas_are_found_and_listed() -> None:
    serving = Serving(lambda: None)
    other = replace(REPLICA, replica_id="replica_2", deployment="large")
    serving.put_replica(REPLICA)
    serving.put_replica(other)
    assert serving.list_replicas() == (REPLICA, other)
    assert serving.list_replicas("large") == (other,)
    assert serving.find_replica("replica_2") == other
    assert serving.find_replica("replica_3") is None


async def test_waiting_for_what_runs_has_an_end() -> None:
    serving = Serving(lambda: None)
    assert not await serving.wait_settled(1)
    serving.settle()
    assert await serving.wait_settled(1)


@pytest.mark.parametrize(
    ("deployment", "replicas", "reason"),
    [
        (DEPLOYMENT, (), "its replica has not been started yet"),
        (replace(DEPLOYMENT, replicas=0), (), "the deployment 'small' wants no replica"),
        (DEPLOYMENT, (REPLICA,), "its replica is starting: the model is being loaded"),
        (DEPLOYMENT, (replace(REPLICA, reason=""),), "its replica is starting"),
        (DEPLOYMENT, (replace(REPLICA, state=ReplicaState.READY),), ""),
        (
            DEPLOYMENT,
            (replace(REPLICA, deployment="large", state=ReplicaState.READY),),
            "its replica has not been started yet",
        ),
        (
            DEPLOYMENT,
            (REPLICA, replace(REPLICA, state=ReplicaState.FAILED, since_ms=9, reason="the model is missing")),
            "its replica is failed: the model is missing",
        ),
    ],
)
def test_why_a_deployment_cannot_answer(deployment: Deployment, replicas: tuple[Replica, ...], reason: str) -> None:
    assert explain(deployment, replicas) == reason
