"""Use cases of the catalogue."""

import asyncio
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.blobs.model import Blob
from tokenworks.blobs.ports import BlobStore
from tokenworks.hub import store
from tokenworks.hub.model import Model, ModelHeader
from tokenworks.hub.policy import check_model_name
from tokenworks.hub.ports import FindFile, ReadChunks, ReadHeader
from tokenworks.kit.clock import Clock
from tokenworks.kit.db import Database
from tokenworks.kit.errors import ConflictError, NotFoundError


class Hub:
    """Models, their files and what is known about them."""

    def __init__(self, clock: Clock, blobs: BlobStore, read_header: ReadHeader, read_chunks: ReadChunks) -> None:
        self._clock = clock
        self._blobs = blobs
        self._read_header = read_header
        self._read_chunks = read_chunks

    async def import_file(self, database: Database, path: Path, name: str) -> Model:
        """Take a model file into the catalogue. Again with the same bytes it changes nothing.

        The bytes are stored before the row is written, in a transaction of its own: a crash in between leaves bytes
        without a row, and the next import finds them.

        Raises:
            InvalidRequestError: the name cannot be one, or the file is no model that we know.
            ConflictError: the name belongs to other bytes.
            StorageFullError, UnavailableError: the disk refuses.
        """
        check_model_name(name)
        header = await asyncio.to_thread(self._read_header, path)
        blob = await self._blobs.put(self._read_chunks(path))
        async with database.write() as connection:
            known = await store.find_model(connection, name)
            if known is None:
                model = self._make_model(name, header, blob)
                await store.add_model(connection, model)
                return model
        if known.digest != blob.digest:
            raise ConflictError(
                f"the model {name!r} exists with other bytes ({known.digest[:12]}, not {blob.digest[:12]}); "
                "import this file under another name",
                param="name",
            )
        return known

    async def ensure_file(self, database: Database, find_file: FindFile, name: str) -> Model:
        """As `import_file`, but where the model is here already with its bytes, the file is not even looked for.

        Raises:
            StartError: it is not here, and neither is the file.
        """
        async with database.read() as connection:
            known = await store.find_model(connection, name)
        if known is not None:
            blob = await self._blobs.find(known.digest)
            if blob is not None and blob.size_bytes == known.size_bytes:
                return known
        return await self.import_file(database, find_file(), name)

    async def get(self, connection: AsyncConnection, name: str) -> Model:
        """The model of that name.

        Raises:
            NotFoundError: there is none.
        """
        model = await store.find_model(connection, name)
        if model is None:
            raise NotFoundError(f"there is no model {name[:160]!r} in the catalogue", code="model_not_found")
        return model

    async def list(self, connection: AsyncConnection) -> list[Model]:
        """All models, by name."""
        return await store.list_models(connection)

    async def local_path(self, model: Model) -> Path:
        """A file of this machine with the model's bytes.

        Raises:
            NotFoundError: somebody deleted it.
        """
        return await self._blobs.local_path(model.digest)

    def _make_model(self, name: str, header: ModelHeader, blob: Blob) -> Model:
        return Model(
            name=name,
            digest=blob.digest,
            format=header.format,
            size_bytes=blob.size_bytes,
            architecture=header.architecture,
            context_tokens=header.context_tokens,
            parameters=header.parameters,
            quantisation=header.quantisation,
            licence=header.licence,
            created_at_ms=self._clock.now_ms(),
        )
