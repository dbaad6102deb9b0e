"""What becomes of replicas: the state machine of one, and the decision over all. Pure.

`see_process` and `see_answer` turn what was observed into a replica's next state; `reconcile` compares replicas with
deployments and says what to do. Together they hold: never more replicas than wanted are on their way up or serving;
each state in between ends, by success or by its time limit, with a reason; a failed replica is tried again for ever,
after a wait that doubles up to a limit. Every time here is of a clock that never goes back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from tokenworks.cluster.model import ProcessStatus
from tokenworks.serving.model import Deployment, Replica, ReplicaState

_UP = frozenset({ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.READY})
_REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of the state machine, in milliseconds."""

    start_ms_max: int
    probe_ms_max: int
    """A ready replica that has not answered for this long has failed."""
    drain_ms_max: int
    stop_ms_max: int
    restart_wait_ms_min: int
    restart_wait_ms_max: int
    stable_ms: int = 60_000
    """A replica that was ready for this long failed for a new reason: its waits begin anew."""
    drain_ms_min: int = 1_000
    """Doors hear of a draining replica within this; until then it may look idle and is not."""
    forget_ms: int = 60_000
    """A stopped replica is shown for this long."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a replica of this deployment, in the place of one that failed."""

    deployment: Deployment
    restarts: int
    replaces: str | None


@dataclass(frozen=True, slots=True)
class Drain:
    """Send it no more work."""

    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Its time is up."""

    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End its process."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Show it no longer."""

    replica_id: str


Action = Start | Drain | Fail | Stop | Forget


def digest_spec(deployment: Deployment) -> str:
    """What of a deployment its processes depend on; a change of it replaces the replicas."""
    parts = (deployment.name, deployment.model, deployment.engine, deployment.slots, deployment.context_tokens)
    return sha256(repr(parts).encode()).hexdigest()[:16]


def restart_wait_ms(restarts: int, limits: Limits) -> int:
    """Wait before a start after that many failed ones in a row."""
    doublings = min(restarts, 62)
    return int(min(limits.restart_wait_ms_max, limits.restart_wait_ms_min << doublings))


def make_labels(replica: Replica, deployment: Deployment) -> dict[str, str]:
    """What travels with the process, so that a control that was restarted knows it again."""
    return {
        "deployment": replica.deployment,
        "key": replica.key,
        "engine": replica.engine,
        "slots": str(deployment.slots),
        "spec": replica.spec,
        "restarts": str(replica.restarts),
    }


def adopt(process: ProcessStatus, now_ms: int) -> Replica | None:
    """The replica that a listed process is; None if its labels do not say so."""
    labels = process.labels
    if not all(labels.get(name) for name in ("deployment", "key", "engine", "spec", "restarts")):
        return None
    return Replica(
        replica_id=process.process_id,
        deployment=labels["deployment"],
        state=ReplicaState.STARTING,
        since_ms=now_ms,
        reason="it was running before control was restarted",
        address=process.address,
        key=labels["key"],
        pid=process.pid,
        restarts=int(labels["restarts"]) if labels["restarts"].isdecimal() else 0,
        engine=labels["engine"],
        spec=labels["spec"],
    )


def change_state(replica: Replica, state: ReplicaState, reason: str, now_ms: int) -> Replica:
    """The replica in another state from now on. States that were left do not come back."""
    assert replica.state is not ReplicaState.STOPPED, f"{replica.replica_id} is stopped and cannot become {state}"
    return replace(
        replica,
        state=state,
        since_ms=now_ms,
        reason=reason[:_REASON_CHARS_MAX],
        failing_since_ms=None,
        requests_running=None,
    )


def fail(replica: Replica, reason: str, now_ms: int, limits: Limits) -> Replica:
    """The replica has failed; one that had been ready for long starts its count anew."""
    is_stable = replica.state is ReplicaState.READY and now_ms - replica.since_ms >= limits.stable_ms
    failed = change_state(replica, ReplicaState.FAILED, reason, now_ms)
    return replace(failed, restarts=0) if is_stable else failed


def see_process(replica: Replica, process: ProcessStatus | None, now_ms: int, limits: Limits) -> Replica:
    """What the list of processes says about a replica; None: it is not listed."""
    if replica.state is ReplicaState.STOPPED:
        return replica
    if process is None:
        return _see_no_process(replica, now_ms, limits)
    seen = replace(replica, pid=process.pid, address=process.address or replica.address)
    if process.exit_code is not None:
        return _see_end(seen, process, now_ms, limits)
    if replica.state is ReplicaState.PENDING:
        return change_state(seen, ReplicaState.STARTING, "the model is being loaded", now_ms)
    return seen


def _see_no_process(replica: Replica, now_ms: int, limits: Limits) -> Replica:
    match replica.state:
        case ReplicaState.PENDING:
            # The start has not come through yet; `start_ms_max` bounds the wait.
            return replica
        case ReplicaState.DRAINING:
            return change_state(replace(replica, pid=None), ReplicaState.STOPPED, replica.reason, now_ms)
        case ReplicaState.FAILED:
            return replace(replica, pid=None)
    return fail(replace(replica, pid=None), "its process is gone: tokenworks itself was restarted", now_ms, limits)


def _see_end(replica: Replica, process: ProcessStatus, now_ms: int, limits: Limits) -> Replica:
    if replica.state in (ReplicaState.DRAINING, ReplicaState.FAILED):
        return replica
    return fail(replica, describe_end(process), now_ms, limits)


def describe_end(process: ProcessStatus) -> str:
    """Why a process ended, in a sentence."""
    code = process.exit_code
    assert code is not None
    if code < 0:
        return f"its process was ended by signal {-code}"
    said = f": {process.last_line}" if process.last_line else ""
    return f"its process ended with code {code}{said}"


def see_answer(replica: Replica, requests_running: int | None, now_ms: int) -> Replica:
    """It answered. A starting replica only counts as answering when a token came out of it."""
    if replica.state is ReplicaState.STARTING:
        replica = change_state(replica, ReplicaState.READY, "", now_ms)
    if replica.state not in (ReplicaState.READY, ReplicaState.DRAINING):
        return replica
    reason = "" if replica.state is ReplicaState.READY else replica.reason
    return replace(replica, failing_since_ms=None, reason=reason, requests_running=requests_running)


def see_silence(replica: Replica, reason: str, asked_at_ms: int) -> Replica:
    """It did not answer, for `reason`. How long that may go on is for `reconcile` to say."""
    if replica.state is ReplicaState.STARTING:
        return replace(replica, reason=reason[:_REASON_CHARS_MAX])
    if replica.state is ReplicaState.READY:
        since_ms = asked_at_ms if replica.failing_since_ms is None else replica.failing_since_ms
        return replace(replica, failing_since_ms=since_ms, reason=reason[:_REASON_CHARS_MAX])
    return replica


def reconcile(
    deployments: Iterable[Deployment], replicas: Iterable[Replica], now_ms: int, limits: Limits
) -> tuple[Action, ...]:
    """What to do now; at most one action per replica. Applying them and asking again leads to what is wanted."""
    wanted = {deployment.name: deployment for deployment in deployments}
    groups: dict[str, list[Replica]] = {name: [] for name in wanted}
    actions: list[Action] = []
    for replica in replicas:
        unwanted = _why_unwanted(replica, wanted)
        if replica.state in (ReplicaState.DRAINING, ReplicaState.STOPPED) or unwanted:
            actions += _let_go(replica, unwanted, now_ms, limits)
        else:
            groups[replica.deployment].append(replica)
    for name, deployment in wanted.items():
        actions += _reconcile_one(deployment, groups[name], now_ms, limits)
    return tuple(actions)


def _why_unwanted(replica: Replica, wanted: Mapping[str, Deployment]) -> str:
    deployment = wanted.get(replica.deployment)
    if deployment is None:
        return f"there is no deployment {replica.deployment!r} any more"
    if replica.spec != digest_spec(deployment):
        return f"the deployment {replica.deployment!r} was changed"
    return ""


def _let_go(replica: Replica, reason: str, now_ms: int, limits: Limits) -> list[Action]:
    waited_ms = now_ms - replica.since_ms
    match replica.state:
        case ReplicaState.STOPPED:
            return [Forget(replica.replica_id)] if waited_ms >= limits.forget_ms else []
        case ReplicaState.FAILED:
            return [Forget(replica.replica_id) if replica.pid is None else Stop(replica.replica_id)]
        case ReplicaState.DRAINING:
            return _end_drain(replica, waited_ms, limits)
    return [Drain(replica.replica_id, reason)]


def _end_drain(replica: Replica, waited_ms: int, limits: Limits) -> list[Action]:
    if waited_ms >= limits.drain_ms_max + 2 * limits.stop_ms_max + limits.drain_ms_min:
        return [Fail(replica.replica_id, f"its process {replica.pid} was stopped and killed, and is still there")]
    is_idle = replica.requests_running == 0 and waited_ms >= limits.drain_ms_min
    return [Stop(replica.replica_id)] if is_idle or waited_ms >= limits.drain_ms_max else []


def _reconcile_one(deployment: Deployment, replicas: list[Replica], now_ms: int, limits: Limits) -> list[Action]:
    ordered = sorted(replicas, key=_worth)
    kept, surplus = ordered[: deployment.replicas], ordered[deployment.replicas :]
    actions: list[Action] = []
    for replica in surplus:
        actions += _let_go(replica, f"the deployment {deployment.name!r} wants fewer replicas", now_ms, limits)
    for replica in kept:
        action = _failed_next(deployment, replica, now_ms, limits) if replica.state not in _UP else None
        action = action or _check_time(replica, now_ms, limits)
        if action is not None:
            actions.append(action)
    missing = deployment.replicas - len(kept)
    return actions + [Start(deployment, restarts=0, replaces=None)] * missing


def _worth(replica: Replica) -> tuple[int, int, str]:
    order = (ReplicaState.READY, ReplicaState.STARTING, ReplicaState.PENDING, ReplicaState.FAILED)
    return order.index(replica.state), replica.since_ms, replica.replica_id


def _failed_next(deployment: Deployment, replica: Replica, now_ms: int, limits: Limits) -> Action | None:
    if replica.pid is not None:
        return Stop(replica.replica_id)
    if now_ms - replica.since_ms >= restart_wait_ms(replica.restarts, limits):
        return Start(deployment, restarts=replica.restarts + 1, replaces=replica.replica_id)
    return None


def _check_time(replica: Replica, now_ms: int, limits: Limits) -> Action | None:
    waited_ms = now_ms - replica.since_ms
    if replica.state is ReplicaState.PENDING and waited_ms >= limits.start_ms_max:
        return Fail(replica.replica_id, f"its process did not start within {limits.start_ms_max} ms")
    if replica.state is ReplicaState.STARTING and waited_ms >= limits.start_ms_max:
        last = f"; last: {replica.reason}" if replica.reason else ""
        return Fail(replica.replica_id, f"no token came within {limits.start_ms_max} ms{last}")
    if replica.failing_since_ms is not None and now_ms - replica.failing_since_ms >= limits.probe_ms_max:
        return Fail(replica.replica_id, f"it has not answered for {limits.probe_ms_max} ms; last: {replica.reason}")
    return None
