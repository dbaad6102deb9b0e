"""The catalogue on a real database and disk."""

import asyncio
from pathlib import Path

import pytest

from tokenworks.blobs.adapters.disk import DiskBlobStore, read_chunks
from tokenworks.hub.adapters.gguf_header import read_gguf_header
from tokenworks.hub.service import Hub
from tokenworks.kit.clock import SystemClock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import ConflictError, InvalidRequestError, NotFoundError, StartError

NAME = "default/Tiny"


@pytest.fixture
async def blobs(tmp_path: Path) -> DiskBlobStore:
    store = DiskBlobStore(tmp_path / "blobs")
    await store.prepare()
    return store


@pytest.fixture
def hub(blobs: DiskBlobStore) -> Hub:
    return Hub(SystemClock(), blobs, read_gguf_header, read_chunks)


def no_file() -> Path:
    raise StartError("the file is missing")


async def test_a_file_is_imported_once(hub: Hub, database: Database, tiny_model: Path) -> None:
    model = await hub.import_file(database, tiny_model, NAME)
    assert (model.name, model.format, model.architecture, model.quantisation) == (NAME, "gguf", "llama", "F32")
    assert (model.context_tokens, model.parameters, model.licence) == (256, 32, None)
    assert await hub.import_file(database, tiny_model, NAME) == model
    async with database.read() as connection:
        assert await hub.list(connection) == [model]
        assert await hub.get(connection, NAME) == model
        with pytest.raises(NotFoundError) as caught:
            await hub.get(connection, "default/Other")
    assert caught.value.code == "model_not_found"
    assert (await hub.local_path(model)).read_bytes() == tiny_model.read_bytes()


async def test_a_name_belongs_to_one_file_for_ever(
    hub: Hub, database: Database, tiny_model: Path, tmp_path: Path
) -> None:
    model = await hub.import_file(database, tiny_model, NAME)
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_model.read_bytes() + b"more")
    with pytest.raises(ConflictError, match="under another name"):
        await hub.import_file(database, other, NAME)
    async with database.read() as connection:
        assert await hub.get(connection, NAME) == model


async def test_what_is_no_model_leaves_nothing(hub: Hub, database: Database, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"bad")
    with pytest.raises(InvalidRequestError, match=r"bad\.gguf"):
        await hub.import_file(database, tmp_path / "bad.gguf", NAME)
    with pytest.raises(InvalidRequestError, match="namespace/name"):
        await hub.import_file(database, tiny_model, "tiny")
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


async def test_the_default_model_is_looked_for_only_when_it_is_not_here(
    hub: Hub, blobs: DiskBlobStore, database: Database, tiny_model: Path
) -> None:
    with pytest.raises(StartError, match="missing"):
        await hub.ensure_file(database, no_file, NAME)
    model = await hub.ensure_file(database, lambda: tiny_model, NAME)
    assert await hub.ensure_file(database, no_file, NAME) == model
    await blobs.delete(model.digest)
    assert await hub.ensure_file(database, lambda: tiny_model, NAME) == model
    path = await hub.local_path(model)
    path.write_bytes(b"cut")
    assert await hub.ensure_file(database, lambda: tiny_model, NAME) == model
    assert path.read_bytes() == tiny_model.read_bytes()


async def test_two_that_import_at_once_agree(hub: Hub, database: Database, tiny_model: Path) -> None:
    found = await asyncio.gather(*(hub.import_file(database, tiny_model, NAME) for _ in range(5)))
    assert len(set(found)) == 1
