"""Files that survive a power cut: written beside, synced, renamed, and the folder synced too.

A reader sees the old content or the new one, never a part. Errors of the disk become sentences here, in one place.
"""

import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenworks.kit.errors import StorageFullError, TokenworksError, UnavailableError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace the file's content in one step; durable when this returns.

    Raises:
        StorageFullError: the disk has no room.
        UnavailableError: the folder is read-only, is missing, or the disk fails.
    """
    with storage_errors(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                sync_file(descriptor)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Make a folder, and its missing parents, that only its owner may enter; an existing one is left as it is.

    Raises:
        StorageFullError, UnavailableError: as `write_atomically`.
    """
    with storage_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock an open file until it is closed; False, at once, if another has it locked.

    Raises:
        OSError: this file system cannot lock files.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def is_locked(path: Path) -> bool:
    """True while a process has the file locked; False if there is no such file, or it is not ours to ask."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(descriptor, is_shared=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def sync_file(descriptor: int) -> None:
    """Force an open file to stable storage (macOS needs a call of its own for that)."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (new, renamed and deleted names) to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into the error that says what happened to `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> TokenworksError:
    """The error that says in a sentence what the disk did to `path`."""
    if error.errno in _FULL:
        return StorageFullError(f"the disk is full: cannot write {path}; free some room and try again")
    if error.errno in _FORBIDDEN:
        return UnavailableError(f"cannot write {path}: it is read-only or belongs to another user")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UnavailableError(f"cannot use {path}: the file or its folder is missing")
    return UnavailableError(f"the disk failed at {path}: {error.strerror or error}")
