"""Pytest fixtures; a `conftest.py` takes them by `from tokenworks.testing.fixtures import tokenworks`."""

from collections.abc import Iterator

import pytest

from tokenworks.testing.running import Running, running


@pytest.fixture(scope="session")
def tokenworks() -> Iterator[Running]:
    """One tokenworks for all tests of the session."""
    with running() as started:
        yield started
