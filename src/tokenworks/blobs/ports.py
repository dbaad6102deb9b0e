"""The port behind which bytes are kept: a disk today, object storage later."""

from collections.abc import AsyncIterable
from pathlib import Path
from typing import BinaryIO, Protocol

from tokenworks.blobs.model import Blob


class BlobStore(Protocol):
    """Bytes by digest. Every method may be called for the same digest at the same time."""

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None) -> Blob:
        """Store a stream; durable when this returns. Bytes that are there already are kept once.

        Raises:
            InvalidRequestError: the bytes do not have the `digest` that was promised (`code` digest_mismatch).
            StorageFullError, UnavailableError: the disk refuses.
        """
        ...

    async def find(self, digest: str) -> Blob | None:
        """The blob, if it is stored."""
        ...

    async def open(self, digest: str) -> BinaryIO:
        """Open it for reading; the caller closes it.

        Raises:
            NotFoundError: it is not stored.
        """
        ...

    async def local_path(self, digest: str) -> Path:
        """A file of this machine with these bytes, for programs that want a path.

        Raises:
            NotFoundError: it is not stored.
        """
        ...

    async def delete(self, digest: str) -> None:
        """Forget it; an unknown one is ignored."""
        ...
