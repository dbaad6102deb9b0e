"""The one statement that each database words in its own way."""

import pytest
from sqlalchemy.dialects import registry

from tokenworks.metering import store


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_insert_of_new_rows(database: str) -> None:
    dialect = registry.load(database)()
    for table in (store.usage, store.unreadable_records):
        statement = store._INSERTS_OF_NEW[database](table).compile(dialect=dialect)
        assert str(statement).endswith("ON CONFLICT DO NOTHING")
