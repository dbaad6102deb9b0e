"""What integration tests share: a migrated database, a tiny model, a short folder, one that cannot be written."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, LlamaFileType

from tokenworks.kit.db import Database, sqlite_url
from tokenworks.server.schema import migrate

_NOBODY = 65534


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
    """A folder that this process cannot write in; root becomes nobody meanwhile, because root can write anywhere."""
    folder = Path(tempfile.mkdtemp(prefix="tokenworks-test-"))
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)
