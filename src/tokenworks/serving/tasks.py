"""The loop that makes deployments true: observe, decide by `policy`, act; again whenever something has changed.

The loop itself waits only for two short calls (the deployments, the list of processes). Everything that may be slow, a
start, a stop, a probe, is a task of its own, at most one per replica and kind, each with a time limit, so that one slow
replica never delays another. What fails becomes the replica's reason.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from tokenworks.cluster.model import ProcessStatus
from tokenworks.cluster.ports import Processes
from tokenworks.kit.clock import Clock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import TokenworksError, UpstreamError
from tokenworks.kit.ids import Ids
from tokenworks.serving import policy
from tokenworks.serving.model import Deployment, Replica, ReplicaState
from tokenworks.serving.policy import Action, Drain, Fail, Forget, Limits, Start, Stop
from tokenworks.serving.ports import Engine, ModelFiles, ReplicaWanted
from tokenworks.serving.service import Serving

_LIST_WAIT_MS = 10_000
_START_INTERVAL_MS = 200
"""While a replica is on its way up, people wait for it."""
_ON_THE_WAY = frozenset({ReplicaState.PENDING, ReplicaState.STARTING})
_LIVE = frozenset({ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING})


@dataclass(frozen=True, slots=True)
class Outside:
    """The ports that the loop uses."""

    processes: Processes
    engines: Mapping[str, Engine]
    files: ModelFiles
    clock: Clock
    ids: Ids
    make_secret: Callable[[], str]


class ServingLoop:
    """Keeps the replicas of all deployments. Run one per control."""

    def __init__(
        self, serving: Serving, database: Database, outside: Outside, limits: Limits, interval_ms: int
    ) -> None:
        self._serving = serving
        self._database = database
        self._outside = outside
        self._limits = limits
        self._interval_ms = interval_ms
        self._deployments: tuple[Deployment, ...] = ()
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._to_ask_first: set[str] | None = None
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look again now: something has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled; replicas stay as they are then."""
        try:
            while True:
                self._wake.clear()
                await self.step()
                self._raise_bugs()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_ms() / 1000):
                        await self._wake.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def step(self) -> None:
        """Observe, decide and act once."""
        await self._load_deployments()
        await self._see_processes()
        now_ms = self._now_ms()
        for action in policy.reconcile(self._deployments, self._serving.list_replicas(), now_ms, self._limits):
            self._apply(action, now_ms)
        for replica in self._serving.list_replicas():
            if replica.state in _LIVE and replica.address is not None:
                self._spawn("probe", replica.replica_id, self._probe(replica))

    def _pause_ms(self) -> int:
        is_starting = any(one.state in _ON_THE_WAY for one in self._serving.list_replicas())
        return min(self._interval_ms, _START_INTERVAL_MS) if is_starting else self._interval_ms

    async def _load_deployments(self) -> None:
        # What is known of the deployments stays true while the database cannot be read.
        with suppress(TokenworksError, TimeoutError):
            async with asyncio.timeout(_LIST_WAIT_MS / 1000), self._database.read() as connection:
                self._deployments = tuple(await self._serving.list_deployments(connection))

    async def _see_processes(self) -> None:
        # A replica that is started while the list travels may be missing in it, and is not gone.
        settled = {one.replica_id for one in self._serving.list_replicas() if one.state is not ReplicaState.PENDING}
        try:
            async with asyncio.timeout(_LIST_WAIT_MS / 1000):
                listed = await self._outside.processes.list()
        except (TokenworksError, TimeoutError):
            return
        processes = {process.process_id: process for process in listed}
        now_ms = self._now_ms()
        for replica in self._serving.list_replicas():
            process = processes.pop(replica.replica_id, None)
            if process is not None or replica.replica_id in settled:
                self._put(policy.see_process(replica, process, now_ms, self._limits))
        for process in processes.values():
            self._adopt(process, now_ms)
        if self._to_ask_first is None:
            self._to_ask_first = {one.replica_id for one in self._serving.list_replicas() if one.state in _LIVE}
            self._settle_if_asked()

    def _adopt(self, process: ProcessStatus, now_ms: int) -> None:
        replica = policy.adopt(process, now_ms)
        if replica is None:
            self._spawn("stop", process.process_id, self._stop(process.process_id))
            return
        self._put(policy.see_process(replica, process, now_ms, self._limits))

    def _apply(self, action: Action, now_ms: int) -> None:
        match action:
            case Start(deployment, restarts, replaces):
                if replaces is not None:
                    self._serving.forget_replica(replaces)
                replica = self._make_replica(deployment, restarts, now_ms)
                self._put(replica)
                self._spawn("start", replica.replica_id, self._start(replica, deployment))
            case Drain(replica_id, reason):
                replica = self._get(replica_id)
                self._put(policy.change_state(replica, ReplicaState.DRAINING, reason, now_ms))
            case Fail(replica_id, reason):
                self._fail(replica_id, reason)
            case Stop(replica_id):
                self._spawn("stop", replica_id, self._stop(replica_id))
            case Forget(replica_id):
                self._serving.forget_replica(replica_id)

    def _make_replica(self, deployment: Deployment, restarts: int, now_ms: int) -> Replica:
        return Replica(
            replica_id=self._outside.ids.new("replica"),
            deployment=deployment.name,
            state=ReplicaState.PENDING,
            since_ms=now_ms,
            reason="its process is being started",
            address=None,
            key=self._outside.make_secret(),
            pid=None,
            restarts=restarts,
            engine=deployment.engine,
            spec=policy.digest_spec(deployment),
        )

    async def _start(self, replica: Replica, deployment: Deployment) -> None:
        engine = self._outside.engines.get(deployment.engine)
        if engine is None:
            self._fail(replica.replica_id, f"there is no engine {deployment.engine!r}")
            return
        try:
            async with asyncio.timeout(self._limits.start_ms_max / 1000):
                path = await self._outside.files.local_path(deployment.model)
                labels = policy.make_labels(replica, deployment)
                wanted = ReplicaWanted(replica.replica_id, deployment, path, replica.key, labels)
                spec = replace(engine.make_process(wanted), labels=labels, stop_ms_max=self._limits.stop_ms_max)
                process = await self._outside.processes.start(spec)
        except TokenworksError as error:
            self._fail(replica.replica_id, error.message)
            return
        except TimeoutError:
            self._fail(replica.replica_id, f"its process did not start within {self._limits.start_ms_max} ms")
            return
        present = self._serving.find_replica(replica.replica_id)
        if present is not None:
            self._put(policy.see_process(present, process, self._now_ms(), self._limits))

    async def _stop(self, process_id: str) -> None:
        # What cannot be stopped stays in the list; the next look at it decides again.
        with suppress(TokenworksError, TimeoutError):
            async with asyncio.timeout((2 * self._limits.stop_ms_max + _LIST_WAIT_MS) / 1000):
                await self._outside.processes.stop(process_id)

    async def _probe(self, replica: Replica) -> None:
        engine = self._outside.engines.get(replica.engine)
        if engine is None or replica.address is None:
            return
        asked_at_ms = self._now_ms()
        timeout_ms = max(self._limits.probe_ms_max // 2, 1)
        try:
            load = await engine.measure(replica.address, replica.key, timeout_ms)
            if replica.state is ReplicaState.STARTING and load.tokens_generated == 0:
                await engine.generate(replica.address, replica.key, self._limits.probe_ms_max)
        except UpstreamError as error:
            why = error.message
            self._put_if_live(replica.replica_id, lambda present: policy.see_silence(present, why, asked_at_ms))
        else:
            self._put_if_live(
                replica.replica_id,
                lambda present: policy.see_answer(present, load.requests_running, self._now_ms()),
            )
        self._settle_if_asked(replica.replica_id)

    def _put(self, replica: Replica) -> None:
        before = self._serving.find_replica(replica.replica_id)
        if before is None or (before.state, before.since_ms) != (replica.state, replica.since_ms):
            replica = replace(replica, since_ms_wall=self._outside.clock.now_ms())
        self._serving.put_replica(replica)

    def _put_if_live(self, replica_id: str, change: Callable[[Replica], Replica]) -> None:
        present = self._serving.find_replica(replica_id)
        if present is not None and present.state in _LIVE:
            self._put(change(present))

    def _fail(self, replica_id: str, reason: str) -> None:
        replica = self._serving.find_replica(replica_id)
        if replica is not None and replica.state not in (ReplicaState.FAILED, ReplicaState.STOPPED):
            self._put(policy.fail(replica, reason, self._now_ms(), self._limits))

    def _settle_if_asked(self, replica_id: str = "") -> None:
        if self._to_ask_first is not None:
            self._to_ask_first.discard(replica_id)
            if not self._to_ask_first:
                self._serving.settle()

    def _spawn(self, kind: str, replica_id: str, work: Coroutine[None, None, None]) -> None:
        name = (kind, replica_id)
        if name in self._tasks:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=f"{kind} {replica_id}")
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._finish(name))

    def _finish(self, name: tuple[str, str]) -> None:
        task = self._tasks[name]
        if task.cancelled() or task.exception() is None:
            del self._tasks[name]
        if name[0] != "probe":
            self.wake()

    def _raise_bugs(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()

    def _get(self, replica_id: str) -> Replica:
        replica = self._serving.find_replica(replica_id)
        assert replica is not None, f"a decision about the unknown replica {replica_id}"
        return replica

    def _now_ms(self) -> int:
        # A wall clock that is set would end every wait at once, or none for hours.
        return self._outside.clock.monotonic_ms()
