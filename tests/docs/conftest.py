"""The tutorial is followed on a tokenworks of its own."""

from tokenworks.testing.fixtures import tokenworks

__all__ = ["tokenworks"]
