"""Table of deployments. Every function works inside the transaction that it is given."""

import json

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, Row, String, Table, Text, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.kit.db import metadata
from tokenworks.serving.model import Deployment

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("aliases", Text, nullable=False, comment="JSON array of names"),
    Column("engine", String(64), nullable=False),
    Column("replicas", Integer, CheckConstraint("replicas >= 0", name="replicas"), nullable=False),
    Column("slots", Integer, CheckConstraint("slots >= 1", name="slots"), nullable=False),
    Column("context_tokens", Integer, CheckConstraint("context_tokens >= 1", name="context_tokens"), nullable=False),
    Column(
        "output_tokens_max",
        Integer,
        CheckConstraint("output_tokens_max >= 1", name="output_tokens_max"),
        nullable=False,
    ),
    Column("created_at_ms", BigInteger, nullable=False),
)


async def find_deployment(connection: AsyncConnection, name: str) -> Deployment | None:
    """The deployment of that name."""
    row = (await connection.execute(select(deployments).where(deployments.c.name == name))).one_or_none()
    return None if row is None else _to_deployment(row)


async def list_deployments(connection: AsyncConnection) -> list[Deployment]:
    """All of them, by name."""
    rows = await connection.execute(select(deployments).order_by(deployments.c.name))
    return [_to_deployment(row) for row in rows]


async def add_deployment(connection: AsyncConnection, deployment: Deployment) -> None:
    """Insert it."""
    values = {**_to_values(deployment), "name": deployment.name, "created_at_ms": deployment.created_at_ms}
    await connection.execute(insert(deployments).values(values))


async def change_deployment(connection: AsyncConnection, deployment: Deployment) -> None:
    """Give the deployment of that name these contents; when it was created stays."""
    query = update(deployments).where(deployments.c.name == deployment.name)
    await connection.execute(query.values(_to_values(deployment)))


def _to_values(deployment: Deployment) -> dict[str, object]:
    return {
        "model": deployment.model,
        "aliases": json.dumps(deployment.aliases),
        "engine": deployment.engine,
        "replicas": deployment.replicas,
        "slots": deployment.slots,
        "context_tokens": deployment.context_tokens,
        "output_tokens_max": deployment.output_tokens_max,
    }


def _to_deployment(row: Row[tuple[object, ...]]) -> Deployment:
    return Deployment(
        name=row.name,
        model=row.model,
        aliases=tuple(json.loads(row.aliases)),
        engine=row.engine,
        replicas=row.replicas,
        slots=row.slots,
        context_tokens=row.context_tokens,
        output_tokens_max=row.output_tokens_max,
        created_at_ms=row.created_at_ms,
    )
