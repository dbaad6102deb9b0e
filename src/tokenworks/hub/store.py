"""Table and queries of the catalogue. Every function works inside the transaction that it is given."""

from dataclasses import asdict

from sqlalchemy import BigInteger, CheckConstraint, Column, Row, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.hub.model import Model
from tokenworks.kit.db import metadata

models = Table(
    "models",
    metadata,
    Column("name", String(160), primary_key=True),
    Column("digest", String(64), nullable=False, index=True),
    Column("format", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("architecture", String(64), nullable=False),
    Column("context_tokens", BigInteger, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("quantisation", String(32), nullable=False),
    Column("licence", String(128)),
    Column("created_at_ms", BigInteger, nullable=False),
    CheckConstraint("length(digest) = 64", name="digest_is_sha256"),
    CheckConstraint("size_bytes > 0", name="size_is_positive"),
)


async def find_model(connection: AsyncConnection, name: str) -> Model | None:
    """The model of that name."""
    row = (await connection.execute(select(models).where(models.c.name == name))).one_or_none()
    return None if row is None else _to_model(row)


async def list_models(connection: AsyncConnection) -> list[Model]:
    """All models, by name."""
    return [_to_model(row) for row in await connection.execute(select(models).order_by(models.c.name))]


async def add_model(connection: AsyncConnection, model: Model) -> None:
    """Insert it."""
    await connection.execute(insert(models).values(**asdict(model)))


def _to_model(row: Row[tuple[object, ...]]) -> Model:
    return Model(**row._asdict())
