"""The one tree of errors that tokenworks raises on purpose; everything else is a bug and answers 500.

    TokenworksError
    ├── InvalidRequestError      400  the request is malformed; `param` names the field
    │   └── TooLargeError        413  a body over its limit (431 for headers)
    ├── AuthenticationError      401  no key, a wrong one, a revoked or expired one
    ├── PermissionDeniedError    403  the key is good, its scopes are not enough
    ├── NotFoundError            404  the thing named does not exist
    ├── RequestTimeoutError      408  the client did not send its request in time
    ├── ConflictError            409  the same id with other contents, or a stale precondition
    ├── UnavailableError         503  this machine cannot do it now; may be tried again
    │   ├── NoCapacityError      503  every slot is taken and the queue is full
    │   └── StorageFullError     503  the disk that must hold the record has no room
    ├── UpstreamError            502  a replica answered nonsense or went away
    │   └── UpstreamTimeoutError 504  a replica did not answer in time
    └── StartError               -    a process cannot start; the CLI prints the message and exits

The message names the thing, the value and the way out. `code` is stable: programs may compare it.
"""

from typing import ClassVar


class TokenworksError(Exception):
    """Base of every error raised on purpose."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.http_status = status or self.status


class InvalidRequestError(TokenworksError):
    """The request is malformed; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class TooLargeError(InvalidRequestError):
    """A body (413) or the headers (431) are over their limit."""

    status = 413
    default_code = "request_too_large"


class AuthenticationError(TokenworksError):
    """No key, a wrong key, a revoked or an expired one."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDeniedError(TokenworksError):
    """The key is good, but its scopes do not cover this."""

    status = 403
    type = "permission_error"
    default_code = "insufficient_scope"


class NotFoundError(TokenworksError):
    """The thing named does not exist."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class RequestTimeoutError(TokenworksError):
    """The client did not send its whole request in time."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"
    retryable = True


class ConflictError(TokenworksError):
    """The same id with other contents, or a precondition that no longer holds."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class UnavailableError(TokenworksError):
    """This machine cannot do it now; the same call may succeed later."""

    status = 503
    type = "service_unavailable_error"
    default_code = "unavailable"
    retryable = True


class NoCapacityError(UnavailableError):
    """Every slot is taken and the queue is full, or the wait took too long."""

    default_code = "no_capacity"


class StorageFullError(UnavailableError):
    """The disk that must hold the record has no room."""

    default_code = "storage_full"


class UpstreamError(TokenworksError):
    """A replica went away or answered something that is not its protocol."""

    status = 502
    type = "server_error"
    default_code = "upstream_error"
    retryable = True


class UpstreamTimeoutError(UpstreamError):
    """A replica did not answer in time."""

    status = 504
    default_code = "upstream_timeout"


class StartError(TokenworksError):
    """A process cannot start; the message says why and what to do."""

    default_code = "cannot_start"
