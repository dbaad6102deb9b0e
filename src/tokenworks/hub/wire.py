"""What `/admin/v1/models` says; `client` executes the call."""

import msgspec

from tokenworks.client.call import Call


class ModelRow(msgspec.Struct, frozen=True):
    """A model of the catalogue."""

    name: str
    digest: str
    format: str
    size_bytes: int
    architecture: str
    context_tokens: int
    parameters: int
    quantisation: str
    licence: str | None
    created_at_ms: int


class ModelList(msgspec.Struct, frozen=True):
    """All models, by name."""

    data: list[ModelRow]


MODELS_LIST: Call[None, ModelList] = Call("GET", "/admin/v1/models", None, ModelList)
