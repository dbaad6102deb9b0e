"""Alembic's entry: runs on the connection, and in the transaction, that `server/schema.py` hands over."""

from alembic import context

from tokenworks.kit.db import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
