"""The database's schema: every slice's tables, and the migrations that bring a database to them."""

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from tokenworks.accounts import store as _accounts  # noqa: F401 - registers its tables
from tokenworks.hub import store as _hub  # noqa: F401 - registers its tables
from tokenworks.kit.db import Database, metadata
from tokenworks.kit.errors import StartError, TokenworksError
from tokenworks.metering import store as _metering  # noqa: F401 - registers its tables
from tokenworks.serving import store as _serving  # noqa: F401 - registers its tables

__all__ = ["metadata", "migrate"]


async def migrate(database: Database) -> None:
    """Bring the database to this version's schema, in one transaction; nothing happens if it is there already.

    Raises:
        StartError: it cannot be opened or written, or belongs to a newer tokenworks.
    """
    try:
        async with database.write() as connection:
            await connection.run_sync(_upgrade)
    except CommandError as error:
        raise StartError(
            f"the database belongs to another version of tokenworks ({error}); start that version, or restore a backup"
        ) from error
    except TokenworksError as error:
        raise StartError(error.message) from error


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "tokenworks.server:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
