"""What a call of our own API is: one value that a slice's `wire.py` declares and `Client` executes.

`client` stands low on the ladder and knows no slice; the types of request and response travel inside the `Call`.
A request's fields fill the placeholders of `path` first; what is left becomes the query of a GET or DELETE, and the
JSON body of anything else.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class Call(Generic[Request, Response]):
    """One route: `KEYS_REVOKE: Call[None, KeyRow] = Call("DELETE", "/admin/v1/keys/{key_id}", None, KeyRow)`."""

    method: str
    path: str
    """Absolute, with `{placeholders}`."""
    request: type[Request] | None
    """A msgspec struct, or None where the call has neither query nor body."""
    response: type[Response]
    """A msgspec struct, or any other type that msgspec decodes."""
