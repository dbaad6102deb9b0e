"""One running tokenworks for the end-to-end tests that do not break it."""

from tokenworks.testing.fixtures import tokenworks

__all__ = ["tokenworks"]
