"""Blobs on a real disk: whole or not at all."""

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tokenworks.blobs.adapters import disk
from tokenworks.blobs.adapters.disk import DiskBlobStore, read_chunks
from tokenworks.kit.errors import InvalidRequestError, NotFoundError, StorageFullError, UnavailableError

DIGEST = hashlib.sha256(b"hello world").hexdigest()


@pytest.fixture
async def blobs(tmp_path: Path) -> DiskBlobStore:
    store = DiskBlobStore(tmp_path / "blobs")
    assert await store.prepare() == 0
    return store


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "blobs" / "tmp").iterdir()]


async def test_put_find_open_delete(blobs: DiskBlobStore, tmp_path: Path) -> None:
    blob = await blobs.put(chunks(b"hello ", b"", b"world"), digest=DIGEST)
    assert (blob.digest, blob.size_bytes) == (DIGEST, 11)
    path = tmp_path / "blobs" / "sha256" / DIGEST[:2] / DIGEST[2:]
    assert await blobs.local_path(DIGEST) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with await blobs.open(DIGEST) as file:
        assert file.read() == b"hello world"
    assert await blobs.find(DIGEST) == blob
    assert await blobs.put(chunks(b"hello world")) == blob
    await blobs.delete(DIGEST)
    await blobs.delete(DIGEST)
    assert await blobs.find(DIGEST) is None
    with pytest.raises(NotFoundError, match=DIGEST):
        await blobs.open(DIGEST)
    assert leftovers(tmp_path) == []


async def test_other_bytes_than_promised_are_not_stored(blobs: DiskBlobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await blobs.put(chunks(b"hello"), digest=DIGEST)
    assert caught.value.code == "digest_mismatch"
    with pytest.raises(InvalidRequestError):
        await blobs.put(chunks(b"hello"), digest="../../etc/passwd")
    assert await blobs.find(DIGEST) is None
    assert leftovers(tmp_path) == []


async def test_a_stream_that_breaks_leaves_nothing(blobs: DiskBlobStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"hello"
        raise KeyError

    with pytest.raises(KeyError):
        await blobs.put(broken())
    assert leftovers(tmp_path) == []


async def test_a_cancelled_put_leaves_nothing(blobs: DiskBlobStore, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"hello"
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(blobs.put(endless()))
    await begun.wait()
    assert len(leftovers(tmp_path)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leftovers(tmp_path) == []


async def test_a_cancelled_put_writes_into_no_other_file(
    blobs: DiskBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, release = threading.Event(), threading.Event()
    write = disk._write_chunk

    def write_slowly(*arguments: Any) -> None:
        inside.set()
        release.wait()
        write(*arguments)

    monkeypatch.setattr(disk, "_write_chunk", write_slowly)
    task = asyncio.create_task(blobs.put(chunks(b"hello world")))
    await asyncio.to_thread(inside.wait)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    with (tmp_path / "victim").open("wb", buffering=0), (tmp_path / "other").open("wb", buffering=0):
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(tmp_path / name).stat().st_size for name in ("victim", "other")] == [0, 0]
    assert leftovers(tmp_path) == []


async def test_a_full_disk_is_said_and_leaves_nothing(
    blobs: DiskBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "sync_file", fail)
    with pytest.raises(StorageFullError, match="disk is full"):
        await blobs.put(chunks(b"hello world"))
    assert leftovers(tmp_path) == []
    assert await blobs.find(DIGEST) is None


async def test_what_a_killed_writer_left_is_removed_when_nobody_writes(blobs: DiskBlobStore, tmp_path: Path) -> None:
    (tmp_path / "blobs" / "tmp" / "left").write_bytes(b"half")
    held = asyncio.Event()
    release = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"hello "
        held.set()
        await release.wait()
        yield b"world"

    task = asyncio.create_task(blobs.put(slow()))
    await held.wait()
    other = DiskBlobStore(tmp_path / "blobs")
    assert await other.prepare() == 0
    assert len(leftovers(tmp_path)) == 2
    release.set()
    assert (await task).digest == DIGEST
    assert await other.prepare() == 1
    assert leftovers(tmp_path) == []
    assert await other.find(DIGEST) is not None


async def test_the_same_bytes_put_at_once_are_one_blob(blobs: DiskBlobStore, tmp_path: Path) -> None:
    found = await asyncio.gather(*(blobs.put(chunks(b"hello ", b"world")) for _ in range(8)))
    assert {blob.digest for blob in found} == {DIGEST}
    assert len(list((tmp_path / "blobs" / "sha256").rglob("*"))) == 2


async def test_a_read_only_folder_is_said(read_only_folder: Path) -> None:
    with pytest.raises(UnavailableError, match="read-only"):
        await DiskBlobStore(read_only_folder / "blobs").prepare()


async def test_files_are_read_in_chunks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcde")
    assert [chunk async for chunk in read_chunks(tmp_path / "file", chunk_bytes=2)] == [b"ab", b"cd", b"e"]
    with pytest.raises(UnavailableError, match="missing"):
        _ = [chunk async for chunk in read_chunks(tmp_path / "none")]
