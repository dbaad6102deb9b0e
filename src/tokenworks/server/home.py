"""The home: one folder with all state, used by one tokenworks at a time.

Two locks hold that. `$HOME/lock` belongs to the supervisor and says who it is. `$HOME/children.lock` is inherited open
by every child, so it is free only when the last of them is gone, however they ended: nothing of an earlier run can
still write when the next begins. Both vanish with their processes; neither can be stale.
"""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tokenworks.kit.clock import Clock
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import StartError, StorageFullError, TokenworksError, UnavailableError
from tokenworks.kit.files import (
    is_locked,
    make_private_folder,
    storage_error,
    storage_errors,
    try_lock,
    write_atomically,
)

ROOM_BYTES = 8 * 1024 * 1024
"""What must be free beside one journal file: database, logs, keys."""

_CHILDREN_WAIT_MS = 10_000
_POLL_MS = 20
_LOCK_TRIES = 5
"""Who only asks whether the home is in use holds the lock for a moment."""
_MARKS = ("lock", "tokenworks.db", "admin.key")
"""Any of these says that a folder that is not empty is a home."""
_OF_THE_DISK = frozenset({"lost+found", ".DS_Store"})
"""What a new disk holds already."""
_LEFT_IN_RUN = ("*.sock", "address", ".address.*.tmp", "room")
"""What tokenworks makes in the run folder; anything else there is not ours to delete."""


class Holder(msgspec.Struct, frozen=True):
    """Who uses a home."""

    pid: int
    address: str = ""


@dataclass(slots=True)
class Home:
    """A home that this process uses. Close it in the end."""

    folder: Path
    lock_fd: int
    children_fd: int
    """For every child to inherit."""

    def tell(self, address: str) -> None:
        """Say to others at which address this tokenworks answers.

        Raises:
            StorageFullError, UnavailableError: the disk refuses.
        """
        with storage_errors(self.folder / "lock"):
            _write_holder(self.lock_fd, Holder(os.getpid(), address))
        write_atomically(self.folder / "run" / "address", address.encode())

    def close(self) -> None:
        """Let others use the home."""
        (self.folder / "run" / "address").unlink(missing_ok=True)
        os.ftruncate(self.lock_fd, 0)
        os.close(self.children_fd)
        os.close(self.lock_fd)


async def open_home(settings: Settings, clock: Clock) -> Home:
    """Make the folders, check that they can be used, and take the locks.

    Raises:
        StartError: it cannot be used; the message says why and what to do.
    """
    folder = settings.home
    _make_home(folder)
    lock_fd = _open_lock(folder / "lock")
    try:
        await _take_lock(lock_fd, folder)
        _make_parts(settings)
        _check_room(folder, settings.metering.segment_bytes + ROOM_BYTES)
        _say_holder(lock_fd, folder)
        children_fd = _open_lock(folder / "children.lock")
    except BaseException:
        os.close(lock_fd)
        raise
    try:
        await _wait_for_children(children_fd, folder, clock)
        with _refusals(folder):
            _clean(settings.run_dir)
    except BaseException:
        os.close(children_fd)
        os.close(lock_fd)
        raise
    return Home(folder, lock_fd, children_fd)


def find_holder(folder: Path) -> Holder | None:
    """Who uses the home now; None if nobody does. A pid of 0: somebody who has only just begun."""
    path = folder / "lock"
    return _read_holder(path) if is_locked(path) else None


def _make_home(folder: Path) -> None:
    with _refusals(folder):
        if folder.exists() and not folder.is_dir():
            raise StartError(f"the home {folder} is a file; remove it, or set TOKENWORKS_HOME to a folder")
        make_private_folder(folder)
        _check_ours(folder)
        _make_private(folder)


def _check_ours(folder: Path) -> None:
    """A folder of somebody else must not become private, nor lose what lies in it."""
    names = {path.name for path in folder.iterdir()} - _OF_THE_DISK
    if names and names.isdisjoint(_MARKS):
        raise StartError(
            f"the folder {folder} is not empty and is no home of tokenworks (it has no file 'lock');"
            " set TOKENWORKS_HOME to a new or an empty folder"
        )


def _make_parts(settings: Settings) -> None:
    with _refusals(settings.home):
        for part in (settings.run_dir, settings.log_dir, settings.journal_dir):
            make_private_folder(part)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses makes the home unusable."""
    try:
        yield
    except OSError as error:
        raise _unusable(folder, storage_error(error, folder)) from error
    except (StorageFullError, UnavailableError) as error:
        raise _unusable(folder, error) from error


def _make_private(folder: Path) -> None:
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path.parent, storage_error(error, path)) from error


async def _take_lock(descriptor: int, folder: Path) -> None:
    for _ in range(_LOCK_TRIES):
        if _try_lock(descriptor):
            break
        await asyncio.sleep(_POLL_MS / 1000)
    else:
        holder = _read_holder(folder / "lock")
        who = f"by process {holder.pid}" if holder.pid else "by another process"
        where = f" at {holder.address}" if holder.address else ""
        raise StartError(
            f"the home {folder} is already in use {who}{where};"
            " stop it with 'tokenworks down', or set TOKENWORKS_HOME to another folder"
        )
    # What a killed one left there is true no more; who finds the lock taken must not believe it.
    with _refusals(folder):
        os.ftruncate(descriptor, 0)
        (folder / "run" / "address").unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        raise StartError(
            f"this file system cannot lock files ({error.strerror}); set TOKENWORKS_HOME to a local disk"
        ) from error


def _say_holder(descriptor: int, folder: Path) -> None:
    with _refusals(folder):
        _write_holder(descriptor, Holder(os.getpid()))


def _write_holder(descriptor: int, holder: Holder) -> None:
    content = msgspec.json.encode(holder)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _read_holder(path: Path) -> Holder:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (msgspec.DecodeError, OSError):
        return Holder(0)


def _check_room(folder: Path, room_bytes: int) -> None:
    """Reserve the room once and give it back: the only question that a disk answers truly."""
    path = folder / "run" / "room"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _reserve(descriptor, room_bytes)
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            mebibytes = -(-room_bytes // (1024 * 1024))
            raise StartError(
                f"the disk of {folder} is full: {mebibytes} MiB must be free to keep the record of usage;"
                " free some room, or set TOKENWORKS_HOME to another disk"
            ) from error
        raise _unusable(folder, storage_error(error, path)) from error


def _reserve(descriptor: int, room_bytes: int) -> None:
    if sys.platform == "darwin":
        os.ftruncate(descriptor, 0)
        if os.fstatvfs(descriptor).f_bavail * os.fstatvfs(descriptor).f_frsize < room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        os.posix_fallocate(descriptor, 0, room_bytes)


async def _wait_for_children(descriptor: int, folder: Path, clock: Clock) -> None:
    end_ms = clock.monotonic_ms() + _CHILDREN_WAIT_MS
    while not _try_lock(descriptor):
        if clock.monotonic_ms() >= end_ms:
            raise StartError(
                f"processes of an earlier tokenworks still use the home {folder}; end them, or wait, and try again"
            )
        await asyncio.sleep(_POLL_MS / 1000)


def _clean(run_dir: Path) -> None:
    """Sockets and addresses of an earlier run; nobody of it is left."""
    for pattern in _LEFT_IN_RUN:
        for path in run_dir.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def _unusable(folder: Path, error: TokenworksError) -> StartError:
    return StartError(f"the home {folder} cannot be used: {error.message}; TOKENWORKS_HOME chooses another folder")
