"""What the catalogue needs from outside."""

from collections.abc import AsyncIterable, Callable
from pathlib import Path

from tokenworks.hub.model import ModelHeader

ReadHeader = Callable[[Path], ModelHeader]
"""Reads a model file's header, in bounded time and memory. Raises InvalidRequestError if it is none that we know."""

FindFile = Callable[[], Path]
"""Finds a model file on this machine. Raises StartError with the command that brings it."""

ReadChunks = Callable[[Path], AsyncIterable[bytes]]
"""Reads a file as a stream without holding up the event loop."""
