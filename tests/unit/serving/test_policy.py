"""The replica's state machine and the decision over all replicas."""

from dataclasses import replace

import pytest

from tokenworks.cluster.model import ProcessStatus
from tokenworks.serving import policy
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.policy import Action, Drain, Fail, Forget, Limits, Start, Stop

LIMITS = Limits(
    start_ms_max=10_000,
    probe_ms_max=5_000,
    drain_ms_max=8_000,
    stop_ms_max=2_000,
    restart_wait_ms_min=500,
    restart_wait_ms_max=30_000,
)
DEPLOYMENT = Deployment("small", "default/small", (), "llamacpp", 1, 4, 2048, 2048, 1)
S = ReplicaState


def make_replica(state: ReplicaState = S.READY, **changes: object) -> Replica:
    replica = Replica(
        replica_id="replica_1",
        deployment="small",
        state=state,
        since_ms=0,
        reason="",
        address="127.0.0.1:4711",
        key="secret",
        pid=7,
        restarts=0,
        engine="llamacpp",
        spec=policy.digest_spec(DEPLOYMENT),
    )
    return replace(replica, **changes)  # type: ignore[arg-type]  # the fields are named by the tests


def make_status(exit_code: int | None = None, last_line: str = "", address: str | None = None) -> ProcessStatus:
    return ProcessStatus("replica_1", 7, 0, exit_code, {}, address, last_line)


def decide(replica: Replica | None, now_ms: int, deployment: Deployment | None = DEPLOYMENT) -> tuple[Action, ...]:
    deployments = () if deployment is None else (deployment,)
    return policy.reconcile(deployments, () if replica is None else (replica,), now_ms, LIMITS)


# what is seen of a process


@pytest.mark.parametrize(
    ("before", "process", "after"),
    [
        (S.PENDING, None, S.PENDING),
        (S.PENDING, make_status(), S.STARTING),
        (S.PENDING, make_status(2), S.FAILED),
        (S.STARTING, make_status(), S.STARTING),
        (S.STARTING, make_status(2), S.FAILED),
        (S.STARTING, None, S.FAILED),
        (S.READY, make_status(), S.READY),
        (S.READY, make_status(-9), S.FAILED),
        (S.READY, None, S.FAILED),
        (S.DRAINING, make_status(), S.DRAINING),
        (S.DRAINING, make_status(0), S.DRAINING),
        (S.DRAINING, None, S.STOPPED),
        (S.FAILED, make_status(), S.FAILED),
        (S.FAILED, make_status(1), S.FAILED),
        (S.FAILED, None, S.FAILED),
        (S.STOPPED, None, S.STOPPED),
        (S.STOPPED, make_status(), S.STOPPED),
    ],
)
def test_what_the_list_of_processes_makes_of_a_replica(
    before: ReplicaState, process: ProcessStatus | None, after: ReplicaState
) -> None:
    seen = policy.see_process(make_replica(before), process, 100, LIMITS)
    assert seen.state is after
    assert (seen.since_ms == 100) == (before is not after)


def test_an_address_is_learnt_and_kept() -> None:
    seen = policy.see_process(make_replica(S.PENDING, address=None, pid=None), make_status(), 1, LIMITS)
    assert (seen.address, seen.pid) == (None, 7)
    seen = policy.see_process(seen, make_status(address="127.0.0.1:1"), 2, LIMITS)
    assert seen.address == "127.0.0.1:1"
    assert policy.see_process(seen, make_status(), 3, LIMITS).address == "127.0.0.1:1"


def test_a_gone_process_leaves_no_number() -> None:
    for state in (S.STARTING, S.READY, S.DRAINING, S.FAILED):
        assert policy.see_process(make_replica(state), None, 1, LIMITS).pid is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (make_status(2, "the model is missing"), "its process ended with code 2: the model is missing"),
        (make_status(0), "its process ended with code 0"),
        (make_status(-9, "some line"), "its process was ended by signal 9"),
    ],
)
def test_the_reason_is_the_last_line_of_the_log(status: ProcessStatus, reason: str) -> None:
    assert policy.see_process(make_replica(S.STARTING), status, 1, LIMITS).reason == reason


def test_a_reason_is_never_long() -> None:
    failed = policy.see_process(make_replica(), make_status(1, "x" * 5000), 1, LIMITS)
    assert len(failed.reason) == 500
    assert len(policy.see_silence(make_replica(), "x" * 5000, 1).reason) == 500


# what is seen of its answers


def test_a_token_makes_it_ready() -> None:
    ready = policy.see_answer(make_replica(S.STARTING, reason="loading"), 0, 70)
    assert (ready.state, ready.since_ms, ready.reason, ready.requests_running) == (S.READY, 70, "", 0)


def test_an_answer_ends_a_silence_and_is_no_new_state() -> None:
    silent = policy.see_silence(make_replica(), "refused", 50)
    assert (silent.failing_since_ms, silent.reason, silent.state) == (50, "refused", S.READY)
    still = policy.see_silence(silent, "timeout", 90)
    assert (still.failing_since_ms, still.reason) == (50, "timeout")
    again = policy.see_answer(still, 3, 95)
    assert (again.failing_since_ms, again.reason, again.requests_running, again.since_ms) == (None, "", 3, 0)


def test_a_draining_one_keeps_its_reason_and_tells_its_load() -> None:
    seen = policy.see_answer(make_replica(S.DRAINING, reason="changed"), 2, 5)
    assert (seen.state, seen.reason, seen.requests_running) == (S.DRAINING, "changed", 2)


@pytest.mark.parametrize("state", [S.PENDING, S.FAILED, S.STOPPED])
def test_late_answers_change_nothing(state: ReplicaState) -> None:
    replica = make_replica(state)
    assert policy.see_answer(replica, 1, 5) == replica
    assert policy.see_silence(replica, "refused", 5) == replica


def test_a_silent_start_says_why_but_its_time_runs_on() -> None:
    seen = policy.see_silence(make_replica(S.STARTING), "refused", 5)
    assert (seen.state, seen.reason, seen.since_ms, seen.failing_since_ms) == (S.STARTING, "refused", 0, None)


def test_nothing_comes_back_from_stopped() -> None:
    with pytest.raises(AssertionError, match="is stopped"):
        policy.change_state(make_replica(S.STOPPED), S.READY, "", 1)


def test_a_change_of_state_forgets_the_load() -> None:
    drained = policy.change_state(make_replica(requests_running=0, failing_since_ms=3), S.DRAINING, "why", 9)
    assert (drained.requests_running, drained.failing_since_ms) == (None, None)


# labels


def test_a_replica_is_known_again_by_its_labels() -> None:
    replica = make_replica(restarts=3)
    labels = policy.make_labels(replica, DEPLOYMENT)
    process = ProcessStatus("replica_1", 9, 0, None, labels, "127.0.0.1:5", "")
    adopted = policy.adopt(process, 44)
    assert adopted is not None
    assert (adopted.replica_id, adopted.key, adopted.restarts, adopted.spec, adopted.engine) == (
        "replica_1", "secret", 3, replica.spec, "llamacpp",
    )  # fmt: skip
    assert (adopted.state, adopted.since_ms, adopted.pid, adopted.address) == (S.STARTING, 44, 9, "127.0.0.1:5")
    assert labels["slots"] == "4"


@pytest.mark.parametrize("missing", ["deployment", "key", "engine", "spec", "restarts"])
def test_a_stranger_is_not_adopted(missing: str) -> None:
    labels = policy.make_labels(make_replica(), DEPLOYMENT)
    del labels[missing]
    assert policy.adopt(ProcessStatus("x", 9, 0, None, labels, None, ""), 1) is None


def test_a_label_that_is_no_number_counts_as_none() -> None:
    labels = {**policy.make_labels(make_replica(), DEPLOYMENT), "restarts": "-5x"}
    adopted = policy.adopt(ProcessStatus("x", 9, 0, None, labels, None, ""), 1)
    assert adopted is not None
    assert adopted.restarts == 0


# waits


def test_the_wait_doubles_up_to_its_limit() -> None:
    assert [policy.restart_wait_ms(n, LIMITS) for n in range(8)] == [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
    assert policy.restart_wait_ms(10**9, LIMITS) == 30_000


@pytest.mark.parametrize(
    ("now_ms", "state", "restarts"), [(59_999, S.READY, 4), (60_000, S.READY, 0), (60_000, S.STARTING, 4)]
)
def test_a_stable_replica_begins_its_count_anew(now_ms: int, state: ReplicaState, restarts: int) -> None:
    assert policy.fail(make_replica(state, restarts=4), "why", now_ms, LIMITS).restarts == restarts


# decisions


def test_a_missing_replica_is_started() -> None:
    assert decide(None, 0) == (Start(DEPLOYMENT, 0, None),)
    three = replace(DEPLOYMENT, replicas=3)
    assert decide(make_replica(), 0, three) == (Start(three, 0, None),) * 2
    assert decide(None, 0, replace(DEPLOYMENT, replicas=0)) == ()


@pytest.mark.parametrize(
    ("replica", "now_ms", "action"),
    [
        (make_replica(S.PENDING), 9_999, None),
        (make_replica(S.PENDING), 10_000, Fail("replica_1", "its process did not start within 10000 ms")),
        (make_replica(S.STARTING), 9_999, None),
        (make_replica(S.STARTING), 10_000, Fail("replica_1", "no token came within 10000 ms")),
        (
            make_replica(S.STARTING, reason="refused"),
            10_000,
            Fail("replica_1", "no token came within 10000 ms; last: refused"),
        ),
        (make_replica(), 10**9, None),
        (make_replica(failing_since_ms=100, reason="refused"), 5_099, None),
        (
            make_replica(failing_since_ms=100, reason="refused"),
            5_100,
            Fail("replica_1", "it has not answered for 5000 ms; last: refused"),
        ),
        (make_replica(S.FAILED), 0, Stop("replica_1")),
        (make_replica(S.FAILED, pid=None, restarts=1), 999, None),
        (make_replica(S.FAILED, pid=None, restarts=1), 1000, Start(DEPLOYMENT, 2, "replica_1")),
    ],
)
def test_time_limits_and_restarts(replica: Replica, now_ms: int, action: Action | None) -> None:
    assert decide(replica, now_ms) == (() if action is None else (action,))


@pytest.mark.parametrize(
    ("state", "pid", "action"),
    [
        (S.PENDING, None, Drain("replica_1", "there is no deployment 'small' any more")),
        (S.STARTING, 7, Drain("replica_1", "there is no deployment 'small' any more")),
        (S.READY, 7, Drain("replica_1", "there is no deployment 'small' any more")),
        (S.FAILED, 7, Stop("replica_1")),
        (S.FAILED, None, Forget("replica_1")),
    ],
)
def test_without_its_deployment_it_goes(state: ReplicaState, pid: int | None, action: Action) -> None:
    assert decide(make_replica(state, pid=pid), 0, None) == (action,)


def test_a_changed_deployment_replaces_its_replicas() -> None:
    changed = replace(DEPLOYMENT, slots=8)
    assert decide(make_replica(), 0, changed) == (
        Drain("replica_1", "the deployment 'small' was changed"),
        Start(changed, 0, None),
    )
    for other in (replace(DEPLOYMENT, model="default/b"), replace(DEPLOYMENT, context_tokens=64)):
        assert policy.digest_spec(other) != policy.digest_spec(DEPLOYMENT)
    # How many there are and what they are called does not touch those that run.
    same = replace(DEPLOYMENT, replicas=9, aliases=("b",), output_tokens_max=5)
    assert policy.digest_spec(same) == policy.digest_spec(DEPLOYMENT)


@pytest.mark.parametrize(
    ("running", "now_ms", "action"),
    [
        (None, 7_999, None),
        (3, 7_999, None),
        (0, 999, None),
        (0, 1_000, Stop("replica_1")),
        (3, 8_000, Stop("replica_1")),
        (None, 12_999, Stop("replica_1")),
        (None, 13_000, Fail("replica_1", "its process 7 was stopped and killed, and is still there")),
    ],
)
def test_a_draining_replica_ends_when_idle_or_out_of_time(
    running: int | None, now_ms: int, action: Action | None
) -> None:
    decided = decide(make_replica(S.DRAINING, requests_running=running), now_ms)
    assert [one for one in decided if not isinstance(one, Start)] == ([] if action is None else [action])


def test_a_stopped_replica_is_shown_for_a_while() -> None:
    assert decide(make_replica(S.STOPPED), 59_999, None) == ()
    assert decide(make_replica(S.STOPPED), 60_000, None) == (Forget("replica_1"),)


def test_surplus_replicas_go_worst_first() -> None:
    ready = make_replica(replica_id="a", since_ms=5)
    older = make_replica(replica_id="b", since_ms=1)
    starting = make_replica(S.STARTING, replica_id="c")
    failed = make_replica(S.FAILED, replica_id="d")
    actions = policy.reconcile((DEPLOYMENT,), (failed, starting, ready, older), 6, LIMITS)
    assert {(type(one), one.replica_id) for one in actions if not isinstance(one, Start)} == {
        (Stop, "d"), (Drain, "c"), (Drain, "a"),
    }  # fmt: skip
    assert "fewer" in next(one.reason for one in actions if isinstance(one, Drain))
