"""Whatever happens to replicas, `reconcile` leads to what is wanted and never beyond it.

A little world applies the actions: processes start or do not, answer or fall silent, die, and are forgotten.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.cluster.model import ProcessStatus
from tokenworks.serving import policy
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.policy import Action, Drain, Fail, Forget, Limits, Start, Stop

LIMITS = Limits(
    start_ms_max=1_000,
    probe_ms_max=500,
    drain_ms_max=800,
    stop_ms_max=200,
    restart_wait_ms_min=50,
    restart_wait_ms_max=400,
    stable_ms=2_000,
    drain_ms_min=100,
    forget_ms=300,
)
STEP_MS = 50
UP = {ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.READY}
BETWEEN_MS_MAX = {
    ReplicaState.PENDING: LIMITS.start_ms_max,
    ReplicaState.STARTING: LIMITS.start_ms_max,
    ReplicaState.DRAINING: LIMITS.drain_ms_max + 2 * LIMITS.stop_ms_max + LIMITS.drain_ms_min,
    ReplicaState.STOPPED: LIMITS.forget_ms,
}


def make_deployment(name: str, replicas: int, slots: int = 1) -> Deployment:
    return Deployment(name, f"default/{name}", (), "llamacpp", replicas, slots, 64, 64, 0)


@dataclass
class World:
    """Replicas, and the processes that run them."""

    deployments: tuple[Deployment, ...]
    now_ms: int = 0
    replicas: dict[str, Replica] = field(default_factory=dict)
    processes: dict[str, ProcessStatus] = field(default_factory=dict)
    unkillable: set[str] = field(default_factory=set)
    count: int = 0

    def step(self, *, starts_work: bool = True, answers: bool = True) -> None:
        self.now_ms += STEP_MS
        for key, replica in self.replicas.items():
            seen = policy.see_process(replica, self.processes.get(key), self.now_ms, LIMITS)
            if seen.state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING):
                if answers:
                    seen = policy.see_answer(seen, 0, self.now_ms)
                else:
                    seen = policy.see_silence(seen, "refused", self.now_ms)
            self.replicas[key] = seen
        actions = policy.reconcile(self.deployments, tuple(self.replicas.values()), self.now_ms, LIMITS)
        named = [one.replica_id for one in actions if not isinstance(one, Start)]
        assert len(named) == len(set(named)), "two actions for one replica"
        for action in actions:
            self.apply(action, starts_work=starts_work)
        self.check()

    def apply(self, action: Action, *, starts_work: bool) -> None:
        match action:
            case Start(deployment, restarts, replaces):
                if replaces is not None:
                    del self.replicas[replaces]
                self.count += 1
                self.add(deployment, f"replica_{self.count}", ReplicaState.PENDING, restarts)
                if starts_work:
                    key = f"replica_{self.count}"
                    self.processes[key] = ProcessStatus(key, self.count, self.now_ms, None, {}, "127.0.0.1:1")
            case Drain(replica_id, reason):
                assert reason
                replica = self.replicas[replica_id]
                self.replicas[replica_id] = policy.change_state(replica, ReplicaState.DRAINING, reason, self.now_ms)
            case Fail(replica_id, reason):
                assert reason
                self.replicas[replica_id] = policy.fail(self.replicas[replica_id], reason, self.now_ms, LIMITS)
            case Stop(replica_id):
                if replica_id not in self.unkillable:
                    self.processes.pop(replica_id, None)
            case Forget(replica_id):
                del self.replicas[replica_id]

    def add(self, deployment: Deployment, key: str, state: ReplicaState, restarts: int = 0) -> None:
        self.replicas[key] = Replica(
            key, deployment.name, state, self.now_ms, "", None, "k", None, restarts, "", policy.digest_spec(deployment)
        )

    def check(self) -> None:
        for deployment in self.deployments:
            digest = policy.digest_spec(deployment)
            up = [one for one in self.replicas.values() if one.spec == digest and one.state in UP]
            assert len(up) <= deployment.replicas, "more replicas than wanted"
        for replica in self.replicas.values():
            limit_ms = BETWEEN_MS_MAX.get(replica.state)
            if limit_ms is not None:
                assert self.now_ms - replica.since_ms <= limit_ms + STEP_MS, f"stuck in {replica.state}"
            if replica.state is ReplicaState.FAILED:
                assert replica.reason, "failed without a reason"

    @property
    def is_as_wanted(self) -> bool:
        wanted = {one.name: one.replicas for one in self.deployments if one.replicas}
        ready: dict[str, int] = {}
        for replica in self.replicas.values():
            if replica.state is not ReplicaState.READY:
                return False
            ready[replica.deployment] = ready.get(replica.deployment, 0) + 1
        is_each_alive = all(process.exit_code is None for process in self.processes.values())
        return ready == wanted and is_each_alive and set(self.processes) == set(self.replicas)


deployments = st.lists(
    st.builds(make_deployment, st.sampled_from(["a", "b", "c"]), st.integers(0, 3), st.integers(1, 2)),
    max_size=3,
    unique_by=lambda one: one.name,
).map(tuple)
events = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.booleans(), st.booleans()),
        st.tuples(st.just("kill"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("change"), deployments, st.just(0)),
    ),
    max_size=60,
)


def happen(world: World, event: tuple[object, ...]) -> None:
    match event:
        case ("step", bool(starts_work), bool(answers)):
            world.step(starts_work=starts_work, answers=answers)
        case ("change", tuple(wanted), _):
            world.deployments = wanted
        case (kind, int(number), _) if world.processes:
            key = sorted(world.processes)[number % len(world.processes)]
            if kind == "lose":
                del world.processes[key]
            else:
                world.processes[key] = replace(world.processes[key], exit_code=-9)


@settings(max_examples=150, deadline=None)
@given(deployments, events)
def test_it_converges_from_wherever_it_was_left(wanted: tuple[Deployment, ...], what: list[tuple[object, ...]]) -> None:
    world = World(wanted)
    for event in what:
        happen(world, event)
    for _ in range(120):
        if world.is_as_wanted:
            break
        world.step()
    assert world.is_as_wanted, world.replicas
    world.step()
    assert world.is_as_wanted, "what is as wanted does not stay so"


@settings(max_examples=40, deadline=None)
@given(deployments, st.integers(1, 200))
def test_it_never_gives_up_and_never_hurries(wanted: tuple[Deployment, ...], steps: int) -> None:
    """Nothing ever starts: it goes on trying, at most once per start limit and wait."""
    world = World(wanted)
    for _ in range(steps):
        world.step(starts_work=False, answers=False)
    places = sum(one.replicas for one in wanted)
    tries_max = places * (1 + steps * STEP_MS // (LIMITS.start_ms_max + LIMITS.restart_wait_ms_min))
    assert world.count <= tries_max
    assert len(world.replicas) == places


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3))
def test_what_cannot_be_killed_is_told(replicas: int) -> None:
    world = World((make_deployment("a", replicas),))
    world.step()
    world.step()
    assert world.is_as_wanted
    world.unkillable = set(world.replicas)
    world.deployments = ()
    for _ in range(60):
        world.step()
    assert {one.state for one in world.replicas.values()} == {ReplicaState.FAILED}
    assert all("still there" in one.reason for one in world.replicas.values())
