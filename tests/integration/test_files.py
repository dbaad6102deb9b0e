"""Atomic files on a real disk."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tokenworks.kit import files
from tokenworks.kit.errors import StorageFullError, UnavailableError
from tokenworks.kit.files import make_private_folder, write_atomically


def test_it_is_written_replaced_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["a file"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync_file", fail)
    with pytest.raises(StorageFullError, match="disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="missing"):
        write_atomically(tmp_path / "none" / "file", b"")


def test_folders_are_private_and_may_exist(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    make_private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError):
        make_private_folder(tmp_path / "file" / "c")


def test_a_read_only_folder_is_said(read_only_folder: Path) -> None:
    with pytest.raises(UnavailableError, match="belongs to another user"):
        write_atomically(read_only_folder / "file", b"")
    with pytest.raises(UnavailableError, match="read-only"):
        make_private_folder(read_only_folder / "a")
