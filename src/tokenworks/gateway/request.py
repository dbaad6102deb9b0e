"""A request as a door's connection read it."""

from tokenworks.kit.errors import TokenworksError
from tokenworks.region.model import SnapshotKey

Header = tuple[bytes, bytes]


class Request:
    """One request as it came in. `error` is set when it cannot be served and only its refusal is due."""

    __slots__ = (
        "announced",
        "authorization",
        "body",
        "client_id",
        "error",
        "expect",
        "headers",
        "judged_by",
        "keep_alive",
        "key",
        "method",
        "minor",
        "request_id",
        "target",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.method = b""
        self.target = b""
        self.headers: list[Header] = []
        self.authorization: bytes | None = None
        self.client_id: bytes | None = None
        self.announced = 0
        self.expect = b""
        self.body = b""
        self.minor = 1
        self.keep_alive = True
        self.key: SnapshotKey | None = None
        self.judged_by: object = None
        self.error: TokenworksError | None = None
