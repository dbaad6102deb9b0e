"""A model of the catalogue.

Invariants: a name belongs to one digest for ever (another file is another model); the bytes of a catalogued model
are in `blobs`, completely.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What a model file says about itself."""

    format: str
    architecture: str
    context_tokens: int
    """The longest context that it was made for."""
    parameters: int
    quantisation: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be deployed."""

    name: str
    """`namespace/name`."""
    digest: str
    format: str
    size_bytes: int
    architecture: str
    context_tokens: int
    parameters: int
    quantisation: str
    licence: str | None
    created_at_ms: int
