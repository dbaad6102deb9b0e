"""The door: the table of its routes over the state that they share."""

from urllib.parse import unquote_to_bytes

from tokenworks.gateway import answers
from tokenworks.gateway.exchange import ChatExchange
from tokenworks.gateway.parameters import read_chat
from tokenworks.gateway.ports import Handler
from tokenworks.gateway.protocol import ClientConnection
from tokenworks.gateway.relay import RelayExchange
from tokenworks.gateway.request import Request
from tokenworks.gateway.state import DoorState
from tokenworks.kit.errors import InvalidRequestError, NotFoundError, TokenworksError, UnavailableError

_CHAT = b"/v1/chat/completions"


class Door(DoorState):
    """One door process."""

    def check_head(self, request: Request) -> TokenworksError | None:
        """What can be refused before the body is read: a `/v1` request without a good key."""
        if not request.target.startswith(b"/v1"):
            return None
        try:
            self.check_key(request)
        except TokenworksError as error:
            return error
        return None

    def handle(self, client: ClientConnection, request: Request) -> Handler | None:
        """Answer a request, or return who will."""
        path = request.target.partition(b"?")[0]
        try:
            if path == _CHAT:
                return self._chat(client, request)
            if path.startswith(b"/v1/") or path == b"/v1":
                self._answer_v1(client, request, path)
            elif path in (b"/healthz", b"/readyz"):
                self._answer_health(client, path)
            elif not path.startswith(b"/") or _is_internal(path):
                raise NotFoundError(f"there is nothing at {path[:200].decode('latin-1')}")
            else:
                relay = RelayExchange(self, client, request)
                relay.start()
                return relay
        except TokenworksError as error:
            client.refuse(error)
        return None

    def _chat(self, client: ClientConnection, request: Request) -> Handler:
        if request.method != b"POST":
            raise _wrong_method(request, "POST")
        if self.is_draining:
            raise UnavailableError("this door is stopping; try again", code="stopping")
        directory = self.directory()
        # Again, since the head was checked: a body may take a minute, and a pipelined request longer.
        key = self.check_key(request)
        spec = read_chat(request.body)
        deployment = directory.resolve(spec.model)
        if spec.choices > deployment.slots:
            raise InvalidRequestError(
                f"n is {spec.choices}, but this model answers at most {deployment.slots} choices at once",
                code="invalid_value",
                param="n",
            )
        exchange = ChatExchange(self, client, request, key, spec, deployment)
        exchange.start()
        return exchange

    def _answer_v1(self, client: ClientConnection, request: Request, path: bytes) -> None:
        name = path[len(b"/v1/models") :] if path.startswith(b"/v1/models") else None
        if name is None or (name and not name.startswith(b"/")):
            raise NotFoundError(f"there is no route {path[:200].decode('latin-1')}", code="unknown_route")
        if request.method not in (b"GET", b"HEAD"):
            raise _wrong_method(request, "GET")
        directory = self.directory()
        model = _unquote(name[1:])
        if model:
            client.respond(200, answers.JSON, answers.model_body(directory.resolve(model)))
        else:
            client.respond(200, answers.JSON, answers.models_body(directory.snapshot.deployments))

    def _answer_health(self, client: ClientConnection, path: bytes) -> None:
        if path == b"/healthz":
            client.respond(200, answers.JSON, b'{"status":"ok"}')
            return
        directory = self.directory()
        if directory.is_ready:
            client.respond(200, answers.JSON, b'{"status":"ready"}')
            return
        waiting = [f"{entry.name}: {entry.reason}" for entry in directory.snapshot.deployments if not entry.is_ready]
        raise UnavailableError("; ".join(waiting) or "there is no deployment yet", code="not_ready")


def _is_internal(path: bytes) -> bool:
    """Whether control would read this as one of a region's own calls, however it is spelled."""
    return (b"/" + unquote_to_bytes(path).lstrip(b"/")).startswith(b"/region")


def _wrong_method(request: Request, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{request.method[:20].decode('latin-1')} is not allowed here; use {allowed}",
        code="method_not_allowed",
        status=405,
    )


def _unquote(name: bytes) -> str:
    return unquote_to_bytes(name).decode("utf-8", "replace")
