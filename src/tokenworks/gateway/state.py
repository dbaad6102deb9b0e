"""What a door's connections and exchanges share: the snapshot, slots, connections to replicas, time.

The door serves from its last snapshot, whoever else is away. All methods are called on its event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tokenworks.gateway.directory import Directory
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.gateway.request import Request
from tokenworks.kit.clock import Clock
from tokenworks.kit.config import GatewaySettings
from tokenworks.kit.errors import TokenworksError, UnavailableError
from tokenworks.kit.http1 import HeadlessConnection, Pool
from tokenworks.kit.ids import Ids
from tokenworks.metering.ports import Journal
from tokenworks.region.admission import Admission
from tokenworks.region.model import Snapshot, SnapshotDeployment, SnapshotKey, SnapshotReplica
from tokenworks.serving.dialect import DIALECTS, Dialect

T = TypeVar("T")

_SCOPE = "inference"


class Timed(Protocol):
    """What has time limits."""

    def check_times(self, now: float) -> None:
        """End what takes too long; `now` is the loop's time."""
        ...

    def fail(self, error: TokenworksError) -> None:
        """End it with this error, whatever it waits for."""
        ...


class Waiter(Timed, Protocol):
    """What waits for a slot, and then holds it."""

    @property
    def replica_id(self) -> str:
        """The replica that was asked last; empty before the first."""
        ...

    def admit(self, replica_id: str) -> None:
        """A slot of that replica is yours."""
        ...


class DoorState:
    """Shared state of one door process."""

    def __init__(
        self, settings: GatewaySettings, journal: Journal, clock: Clock, ids: Ids, control_address: str
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.settings = settings
        self.journal = journal
        self.clock = clock
        self.is_draining = False
        self.idle = asyncio.Event()
        self.all_left = asyncio.Event()
        self.has_snapshot = asyncio.Event()
        self.connections: set[ClientConnection] = set()
        self.exchanges: set[Waiter] = set()
        self.relays: set[Timed] = set()
        self.body_bytes = 0
        self.control = Pool(control_address, settings.connect_ms_max)
        self._ids = ids
        self._directory: Directory | None = None
        self._confirmed_at_ms = 0
        self._admissions: dict[str, Admission[Waiter]] = {}
        self._replicas: dict[str, SnapshotReplica] = {}
        self._pools: dict[str, Pool] = {}
        self._heads: dict[str, bytes] = {}
        self._admitted: deque[tuple[Waiter, str]] = deque()
        self._is_admitting = False

    # the snapshot

    def apply(self, snapshot: Snapshot) -> None:
        """Serve from this snapshot from now on."""
        self.confirm()
        self._directory = Directory(snapshot)
        self.has_snapshot.set()
        replicas = {r.replica_id: r for deployment in snapshot.deployments for r in deployment.replicas}
        for replica_id in self._pools.keys() - replicas.keys():
            self._pools.pop(replica_id).close()
        for replica_id in self._heads.keys() - replicas.keys():
            del self._heads[replica_id]
        self._replicas |= replicas
        for deployment in snapshot.deployments:
            slots = {replica.replica_id: replica.slots for replica in deployment.replicas}
            self.run_admitted(self.admission(deployment.name).set_replicas(slots))
        for name in self._admissions.keys() - {deployment.name for deployment in snapshot.deployments}:
            self._admissions[name].set_replicas({})
        in_use = {exchange.replica_id for exchange in self.exchanges}
        self._replicas = {k: r for k, r in self._replicas.items() if k in replicas or k in in_use}

    def confirm(self) -> None:
        """Control says that the last snapshot still holds."""
        self._confirmed_at_ms = self.clock.monotonic_ms()

    @property
    def etag(self) -> str:
        """The snapshot's etag; empty before the first."""
        return self._directory.snapshot.etag if self._directory else ""

    def directory(self) -> Directory:
        """The snapshot's look-ups.

        Raises:
            UnavailableError: there is none yet, or it is too old to take new work on it.
        """
        if self._directory is None:
            raise UnavailableError("this door is starting: it has not heard from control yet", code="starting")
        age_ms = self.clock.monotonic_ms() - self._confirmed_at_ms
        if age_ms > self.settings.snapshot_age_ms_max:
            raise UnavailableError(
                f"control has been away for {age_ms // 1000} s, longer than this door may serve without it",
                code="snapshot_too_old",
            )
        return self._directory

    def check_key(self, request: Request) -> SnapshotKey:
        """The key of a `/v1` request, as of this snapshot: looked at again only when there is a newer one.

        Raises:
            AuthenticationError: it is not good, or not any more.
            PermissionDeniedError: it may not do this.
        """
        if request.key is not None and request.judged_by is self._directory:
            return request.key
        directory = self.directory()
        request.key = directory.authenticate(request.authorization, _SCOPE, self.clock.now_ms())
        request.judged_by = directory
        return request.key

    # connections

    def enter(self, connection: ClientConnection) -> bool:
        """Count a connection; False when there are too many."""
        if len(self.connections) >= self.settings.connections_max:
            return False
        self.connections.add(connection)
        return True

    def leave(self, connection: ClientConnection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self._note_idle()

    def new_request_id(self) -> str:
        """An id that no client chose."""
        return self._ids.new("req")

    # what exchanges need

    def admission(self, deployment: str) -> Admission[Waiter]:
        """The slots of a deployment."""
        found = self._admissions.get(deployment)
        if found is None:
            found = self._admissions[deployment] = Admission(self.settings.queue_requests_max)
        return found

    def run_admitted(self, admitted: Iterable[tuple[Waiter, str]]) -> None:
        """Start those whose turn has come. One that ends at once lets others in: they are queued, not nested."""
        self._admitted.extend(admitted)
        if self._is_admitting or not self._admitted:
            return
        self._is_admitting = True
        try:
            while self._admitted:
                exchange, replica_id = self._admitted.popleft()
                self._guard(exchange, exchange.admit, replica_id)
        finally:
            self._is_admitting = False

    def _guard(self, timed: Timed, call: Callable[[T], None], argument: T) -> None:
        """Make a call whose failure must end nothing but the request that it is about."""
        try:
            call(argument)
        except Exception as error:  # noqa: BLE001  # a bug in one request must not stop the others
            self.loop.call_exception_handler({"message": "a request failed by a bug", "exception": error})
            timed.fail(TokenworksError("this request failed by an error of the server"))

    def suspend(self, deployment: str, replica_id: str) -> None:
        """A replica did not answer a connection; the next tick tries it again."""
        self.admission(deployment).suspend(replica_id)

    def reason(self, deployment: str) -> str:
        """Why a deployment has no ready replica; empty when it has."""
        if self._directory is None:
            return "no snapshot"
        return next((d.reason for d in self._directory.snapshot.deployments if d.name == deployment), "it was deleted")

    def replica(self, replica_id: str) -> SnapshotReplica:
        """Where a replica is."""
        return self._replicas[replica_id]

    def pool(self, replica: SnapshotReplica) -> Pool:
        """Connections to a replica."""
        pool = self._pools.get(replica.replica_id)
        if pool is None:
            address = f"{replica.host}:{replica.port}"
            pool = Pool(address, self.settings.connect_ms_max, kind=HeadlessConnection)
            self._pools[replica.replica_id] = pool
        return pool

    def request_head(self, replica: SnapshotReplica, length: int) -> bytes:
        """The head of a chat request to a replica."""
        head = self._heads.get(replica.replica_id)
        if head is None:
            head = self._heads[replica.replica_id] = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {replica.host}:{replica.port}\r\n"
                f"authorization: Bearer {replica.key}\r\ncontent-type: application/json\r\ncontent-length: "
            ).encode()
        return b"%s%d\r\n\r\n" % (head, length)

    def dialect(self, deployment: SnapshotDeployment) -> Dialect:
        """How a deployment's engine speaks."""
        return DIALECTS[deployment.engine]

    # time

    def tick(self) -> None:
        """Called about twice a second: everything that has a time limit."""
        now = self.loop.time()
        for admission in self._admissions.values():
            self.run_admitted(admission.resume())
        for timed in (*self.exchanges, *self.relays):
            self._guard(timed, timed.check_times, now)
        for connection in tuple(self.connections):
            connection.check_times(now)
        for pool in (*self._pools.values(), self.control):
            pool.drop_idle()

    def start_draining(self) -> None:
        """Take no new work; connections end with their current answer.

        `idle` is set when no answer is in flight, `all_left` when what was written has been read.
        """
        self.is_draining = True
        for connection in tuple(self.connections):
            connection.drain()
        self._note_idle()

    def end_exchange(self, exchange: Waiter) -> None:
        """A request to a replica is over."""
        self.exchanges.discard(exchange)
        self._note_idle()

    def end_relay(self, relay: Timed) -> None:
        """A request to control is over."""
        self.relays.discard(relay)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self.is_draining:
            return
        if not self.exchanges and not self.relays:
            self.idle.set()
        if not self.connections:
            self.all_left.set()
