"""What integration tests share: a migrated database, a tiny model, and folders: short, read-only, on a small disk."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, LlamaFileType

from tokenworks.kit.db import Database, sqlite_url
from tokenworks.server.schema import migrate


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(sqlite_url(tmp_path / "tokenworks.db"))
    await migrate(opened)
    yield opened
    await opened.close()


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model file that the catalogue takes, made by the format's own library."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tensor("a", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets (108 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        yield Path(folder)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process cannot write in.

    Root can write anywhere but on a disk that is mounted read-only. It must not become another user for that: pytest,
    coverage and whatever is imported late could not read their own files meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="tw-") as place:
        folder = Path(place)
        if os.geteuid() == 0:
            with _mounted(folder, "ro"):
                yield folder
            return
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o700)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of one MiB, to be filled."""
    with tempfile.TemporaryDirectory(prefix="tw-") as place, _mounted(Path(place), "size=1m"):
        yield Path(place)


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a disk")
    mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
