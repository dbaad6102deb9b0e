"""A chat completion's life at the door: parameters, slot, `opened`, relay, `closed`, the end.

Order is the promise: no byte of the answer leaves before `opened` is durable, and the end of the answer does not leave
before `closed` is. So a client that got the end has exactly one row with exactly those counts, and a door that dies has
on its disk what it had begun.

    start -> (waiting for a slot) -> running -> closing -> done
"""

from enum import Enum, auto

from tokenworks.gateway import answers
from tokenworks.gateway.parameters import ChatRequest, engine_body
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.gateway.request import Request
from tokenworks.gateway.state import DoorState
from tokenworks.kit.errors import NoCapacityError, TokenworksError, UpstreamError, UpstreamTimeoutError
from tokenworks.kit.http1 import Connection, Header
from tokenworks.metering.model import Closed, Counts, Opened, Progress, Status
from tokenworks.region.model import SnapshotDeployment, SnapshotKey, SnapshotReplica

_ATTEMPTS_MAX = 3
_REFUSAL_BYTES_MAX = 65_536
_CLIENT_ID_CHARS_MAX = 200


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    CLOSING = auto()
    DONE = auto()


class ChatExchange:
    """One request of one client, and its one answer. Also the receiver of the replica's answer."""

    _state = _State.WAITING
    _last_heard = 0.0
    _is_heard = False
    _attempts = 0
    _replica: SnapshotReplica | None = None
    _connection: Connection | None = None
    _is_opened = False
    _is_opened_durable = False
    _is_paused = False
    _has_head = False
    _holds_slot = False
    _whole = b""
    _collected_bytes = 0
    _collected_read = 0
    _refusal_status = 0
    _refusal = b""
    _journalled = Counts()
    _closed_status = Status.FAILED
    _error: TokenworksError | None = None

    def __init__(
        self,
        door: DoorState,
        client: ClientConnection,
        request: Request,
        key: SnapshotKey,
        spec: ChatRequest,
        deployment: SnapshotDeployment,
    ) -> None:
        self._door = door
        self._client = client
        self._request = request
        self._request_id = request.request_id
        self._client_request_id = _printable(request.client_id) if request.client_id else None
        self._key = key
        self._spec = spec
        self._deployment = deployment
        self._dialect = door.dialect(deployment)
        self._body = engine_body(spec, deployment.output_tokens_max, self._dialect.suffix())
        self._reader = self._dialect.reader(spec.choices)
        self._started_at_ms = door.clock.now_ms()
        self._waiting_since = door.loop.time()
        self._pending: list[bytes] = []
        self._collected: list[bytes] = []

    @property
    def slots(self) -> int:
        """Slots that this request takes: one per choice."""
        return self._spec.choices

    @property
    def replica_id(self) -> str:
        """The replica that was asked last; empty before the first."""
        return self._replica.replica_id if self._replica else ""

    def start(self) -> None:
        """Enter the queue.

        Raises:
            TokenworksError: it was not taken; nothing is on record.
        """
        replica_id = self._door.admission(self._deployment.name).enter(self, self.slots)
        self._door.exchanges.add(self)
        if replica_id is not None:
            self.admit(replica_id)

    def admit(self, replica_id: str) -> None:
        """A slot of that replica is ours: record, and send."""
        self._replica = self._door.replica(replica_id)
        self._holds_slot = True
        self._state = _State.RUNNING
        self._last_heard = self._door.loop.time()
        if not self._is_opened:
            try:
                self._door.check_key(self._request)
                self._open(replica_id)
            except TokenworksError as error:
                self.fail(error)
                return
        self._connect()

    def _open(self, replica_id: str) -> None:
        key = self._key
        record = Opened(
            self._request_id,
            self._client_request_id,
            key.organization,
            key.project,
            key.key_id,
            self._deployment.name,
            replica_id,
            self._started_at_ms,
        )
        position = self._door.journal.append(record)
        self._is_opened = True
        self._door.journal.when_durable(position, self._on_opened)

    def _connect(self) -> None:
        assert self._replica is not None
        pool = self._door.pool(self._replica)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            pool.connect(self._on_connected)

    def _on_connected(self, result: Connection | Exception) -> None:
        if self._state is not _State.RUNNING:
            if isinstance(result, Connection):
                result.abort()
        elif isinstance(result, Connection):
            self._send(result)
        else:
            assert self._replica is not None
            self._door.suspend(self._deployment.name, self._replica.replica_id)
            self._wait_again()
            self.check_times(self._door.loop.time())  # a tick finds it connecting again, never waiting

    def _send(self, connection: Connection) -> None:
        assert self._replica is not None
        self._connection = connection
        self._last_heard = self._door.loop.time()
        connection.send(self._door.request_head(self._replica, len(self._body)) + self._body, self)

    def _wait_again(self) -> None:
        """The replica could not be used, and the client has seen nothing: back to the front of the queue."""
        self._release_slot()
        self._reader = self._dialect.reader(self._spec.choices)
        self._collected.clear()
        self._collected_bytes = self._collected_read = 0
        self._refusal_status = 0
        self._refusal = b""
        self._state = _State.WAITING
        self._door.run_admitted(self._door.admission(self._deployment.name).return_first(self, self.slots))

    # the replica's side

    def on_head(self, status: int, headers: list[Header]) -> None:
        """The replica answers; anything but 200 is a refusal whose body is read first."""
        self._last_heard = self._door.loop.time()
        if status != 200:
            self._refusal_status = status

    def on_body(self, data: bytes) -> None:
        """A piece of the replica's answer."""
        self._is_heard = True
        if self._refusal_status:
            if len(self._refusal) < _REFUSAL_BYTES_MAX:
                self._refusal += data
            return
        if not self._spec.is_stream:
            self._collect(data)
            return
        reader = self._reader
        visible = reader.feed(data)
        if visible:
            if self._is_opened_durable:
                self._write(visible)
            else:
                self._pending.append(visible)
        if reader.error is not None:
            self.fail(reader.error)

    def on_end(self) -> None:
        """The replica's answer is whole."""
        self._connection = None
        self._end()
        self._release_slot()

    def _end(self) -> None:
        if self._refusal_status:
            self._close(Status.FAILED, self._dialect.refusal(self._refusal_status, self._refusal), counts=Counts())
        elif not self._spec.is_stream:
            self._assemble()
        elif self._reader.is_complete:
            self._close(Status.COMPLETED)
        else:
            self._close(Status.FAILED, UpstreamError("the replica ended its answer before its end"))

    def on_lost(self, error: Exception, *, is_stale: bool) -> None:
        """The connection to the replica has ended inside the answer."""
        self._connection = None
        if self._state is not _State.RUNNING:
            self._release_slot()
            return
        self._attempts += 1
        if is_stale and self._attempts < _ATTEMPTS_MAX:
            self._connect()
            return
        has_said = self._has_head or self._pending or self._counts().output_tokens
        if not has_said and self._attempts < _ATTEMPTS_MAX:
            self._waiting_since = self._door.loop.time()
            self._wait_again()
        else:
            self._release_slot()
            self._close(Status.FAILED, UpstreamError(f"the replica was lost while it answered: {error}"))

    def _collect(self, data: bytes) -> None:
        """Keep a piece of an unstreamed answer; it is read as a whole at its end."""
        self._collected.append(data)
        self._collected_bytes += len(data)
        if self._collected_bytes > self._door.settings.answer_bytes_max:
            self.fail(UpstreamError(f"the answer is over {self._door.settings.answer_bytes_max} bytes; stream it"))

    def _counts(self) -> Counts:
        """What the engine has said so far; of an unstreamed answer only now what came since the last time is read."""
        if self._collected_read < len(self._collected):
            self._reader.feed(b"".join(self._collected[self._collected_read :]))
            self._collected_read = len(self._collected)
        return self._reader.counts

    def _write(self, data: bytes) -> None:
        if self._has_head:
            self._client.write_data(data)
        else:
            self._has_head = True
            self._client.write_data(data, self._client.begin_stream())

    # the client's side

    def on_client_lost(self) -> None:
        """The client left: stop the engine; what it has done is on record."""
        if self._state is _State.WAITING:
            self._door.run_admitted(self._door.admission(self._deployment.name).leave(self))
            if self._is_opened:
                self._close(Status.CANCELLED)
            else:
                self._done()
        elif self._state is _State.RUNNING:
            self._drop_connection()
            self._release_slot()
            self._close(Status.CANCELLED)

    def pause(self) -> None:
        """The client reads too slowly."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self._is_paused = False
        self._last_heard = self._door.loop.time()
        if self._connection is not None:
            self._connection.resume()

    # time

    def check_times(self, now: float) -> None:
        """Called about twice a second: end what waits too long, journal progress."""
        settings = self._door.settings
        if self._is_heard:
            self._is_heard = False
            self._last_heard = now
        if self._state is _State.WAITING:
            if (now - self._waiting_since) * 1000 > settings.queue_wait_ms_max:
                self._give_up_waiting()
        elif self._state is _State.RUNNING and not self._is_paused:
            has_begun = self._has_head or bool(self._collected)
            limit = settings.stall_ms_max if has_begun else settings.first_token_ms_max
            if (now - self._last_heard) * 1000 > limit:
                self.fail(UpstreamTimeoutError(f"the replica said nothing for {limit} ms"))
        if self._state is _State.RUNNING and self._counts() != self._journalled:
            self._journalled = self._counts()
            self._door.journal.append(Progress(self._request_id, self._journalled))

    def _give_up_waiting(self) -> None:
        reason = self._door.reason(self._deployment.name) or "all its slots are taken"
        waited_ms = self._door.settings.queue_wait_ms_max
        self.fail(NoCapacityError(f"no slot of {self._deployment.name} came free within {waited_ms} ms: {reason}"))

    # the end

    def fail(self, error: TokenworksError) -> None:
        """End it with this error, whatever it waits for."""
        if self._state is _State.WAITING:
            self._door.run_admitted(self._door.admission(self._deployment.name).leave(self))
        elif self._state is not _State.RUNNING:
            return
        self._drop_connection()
        self._release_slot()
        if self._is_opened:
            self._close(Status.FAILED, error)
        else:
            self._done()
            self._client.refuse(error)

    def _assemble(self) -> None:
        try:
            self._whole, counts = self._dialect.assemble(b"".join(self._collected), self._spec.choices)
        except TokenworksError as error:
            self._close(Status.FAILED, error)
        else:
            self._close(Status.COMPLETED, counts=counts)
        self._collected.clear()

    def _close(self, status: Status, error: TokenworksError | None = None, counts: Counts | None = None) -> None:
        """Record how it ended; the end of the answer follows when the record is durable."""
        assert self._state in (_State.WAITING, _State.RUNNING)
        self._state = _State.CLOSING
        self._closed_status = status
        self._error = error
        key = self._key
        record = Closed(
            self._request_id,
            self._client_request_id,
            key.organization,
            key.project,
            key.key_id,
            self._deployment.name,
            self._replica.replica_id if self._replica else "",
            self._started_at_ms,
            max(self._started_at_ms, self._door.clock.now_ms()),
            status,
            error.code if error else "",
            self._counts() if counts is None else counts,
        )
        try:
            position = self._door.journal.append(record)
        except Exception as failure:  # noqa: BLE001  # without its record the answer has no end, whatever the reason
            self._on_closed(failure)
            return
        self._door.journal.when_durable(position, self._on_closed)

    def _on_opened(self, error: BaseException | None) -> None:
        if error is not None:
            self.fail(UpstreamError("the record of this request could not be written"))
            return
        self._is_opened_durable = True
        if self._pending and self._client.current is self._request:
            data = b"".join(self._pending)
            self._pending.clear()
            self._write(data)

    def _on_closed(self, failure: BaseException | None) -> None:
        """The record is durable (or can never be): release the end."""
        if self._state is not _State.CLOSING:
            return
        self._done()
        if self._client.current is not self._request:  # the client left meanwhile
            return
        if failure is not None:
            self._client.break_stream()
        elif self._closed_status is Status.COMPLETED:
            self._finish()
        elif self._closed_status is Status.FAILED:
            self._finish_failed(self._error or UpstreamError("the replica failed"))

    def _finish(self) -> None:
        if not self._spec.is_stream:
            self._client.respond(200, answers.JSON, self._whole)
            return
        head = b"" if self._has_head else self._client.begin_stream()
        self._client.finish_stream(self._reader.take_end(with_usage=self._spec.wants_usage), head)

    def _finish_failed(self, error: TokenworksError) -> None:
        if self._has_head:
            self._client.break_stream(answers.error_event(error))
        else:
            self._client.refuse(error)

    def _release_slot(self) -> None:
        if self._holds_slot and self._replica is not None:
            self._holds_slot = False
            admission = self._door.admission(self._deployment.name)
            self._door.run_admitted(admission.release(self._replica.replica_id, self.slots))

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _done(self) -> None:
        self._state = _State.DONE
        self._door.end_exchange(self)


def _printable(value: bytes) -> str:
    """A client's own id as it is kept: printable ASCII, so that no client can write what looks like a record."""
    return "".join(letter for letter in value.decode("ascii", "ignore") if letter.isprintable())[:_CLIENT_ID_CHARS_MAX]
