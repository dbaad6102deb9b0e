"""Blobs on this machine's disk: `sha256/ab/cdef...` under one folder.

A blob is hashed while it is written to `tmp/`, synced, renamed to its name, and the folder synced: it is never visible
in part. Writers hold a shared lock on `tmp/`; what a killed writer left is removed by the next `prepare` that finds
nobody writing.
"""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from tokenworks.blobs.model import Blob, check_digest
from tokenworks.kit.errors import InvalidRequestError, NotFoundError
from tokenworks.kit.files import make_private_folder, storage_errors, sync_file, sync_folder

P = ParamSpec("P")
T = TypeVar("T")


class DiskBlobStore:
    """A `BlobStore` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._temporary = folder / "tmp"
        self._blobs = folder / "sha256"

    async def prepare(self) -> int:
        """Make the folders and remove what killed writers left; returns how many files that were.

        Raises:
            StorageFullError, UnavailableError: the disk refuses.
        """
        return await asyncio.to_thread(self._prepare)

    async def put(self, chunks: AsyncIterable[bytes], *, digest: str | None = None) -> Blob:
        if digest is not None:
            check_digest(digest)
        with _lock_shared(self._temporary), storage_errors(self._temporary):
            descriptor, name = tempfile.mkstemp(dir=self._temporary)
            try:
                try:
                    blob = await _write(descriptor, chunks)
                finally:
                    os.close(descriptor)
                if digest is not None and digest != blob.digest:
                    raise InvalidRequestError(
                        f"the bytes have the SHA-256 {blob.digest}, not the promised {digest}",
                        param="digest",
                        code="digest_mismatch",
                    )
                await _in_thread(self._publish, name, blob.digest)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)
        return blob

    async def find(self, digest: str) -> Blob | None:
        path = self._path(digest)
        with storage_errors(path):
            try:
                return Blob(digest, path.stat().st_size)
            except FileNotFoundError:
                return None

    async def open(self, digest: str) -> BinaryIO:
        return (await self.local_path(digest)).open("rb")

    async def local_path(self, digest: str) -> Path:
        if await self.find(digest) is None:
            raise NotFoundError(f"no blob with the SHA-256 {digest} is stored")
        return self._path(digest)

    async def delete(self, digest: str) -> None:
        path = self._path(digest)
        with storage_errors(path):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            await asyncio.to_thread(sync_folder, path.parent)

    def _path(self, digest: str) -> Path:
        check_digest(digest)
        return self._blobs / digest[:2] / digest[2:]

    def _publish(self, temporary: str, digest: str) -> None:
        path = self._path(digest)
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._blobs)
        os.replace(temporary, path)
        sync_folder(path.parent)

    def _prepare(self) -> int:
        for folder in (self._temporary, self._blobs):
            make_private_folder(folder)
        count = 0
        with storage_errors(self._temporary), _lock_alone(self._temporary) as is_alone:
            for path in self._temporary.iterdir() if is_alone else ():
                path.unlink()
                count += 1
        return count


async def read_chunks(path: Path, *, chunk_bytes: int = 4_194_304) -> AsyncIterable[bytes]:
    """The bytes of a file as a stream, without holding up the event loop.

    Raises:
        UnavailableError: the file cannot be read.
    """
    with storage_errors(path):
        file = path.open("rb")
    with file:
        while True:
            with storage_errors(path):
                chunk = await _in_thread(file.read, chunk_bytes)
            if not chunk:
                return
            yield chunk


async def _write(descriptor: int, chunks: AsyncIterable[bytes]) -> Blob:
    hasher = hashlib.sha256()
    size = 0
    async for chunk in chunks:
        await _in_thread(_write_chunk, descriptor, chunk, hasher)
        size += len(chunk)
    await _in_thread(sync_file, descriptor)
    return Blob(hasher.hexdigest(), size)


async def _in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Work in a thread, and be cancelled only when the thread has ended.

    A thread cannot be stopped. The caller closes its file then, and the number of that file may already be another's.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    cancelled: asyncio.CancelledError | None = None
    while not thread.done():
        try:
            await asyncio.wait([thread])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        thread.exception()  # seen, so that nobody is told of it
        raise cancelled
    return thread.result()


def _write_chunk(descriptor: int, chunk: bytes, hasher: "hashlib._Hash") -> None:
    hasher.update(chunk)
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _lock_shared(folder: Path) -> Iterator[None]:
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _lock_alone(folder: Path) -> Iterator[bool]:
    """Yields False, without a lock, while somebody writes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
