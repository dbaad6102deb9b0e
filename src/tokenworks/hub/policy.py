"""The rules of the catalogue: what a model may be called. Pure."""

import re

from tokenworks.kit.errors import InvalidRequestError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?", re.ASCII)


def check_model_name(name: str) -> str:
    """Return `namespace/name` if a model may have it.

    Raises:
        InvalidRequestError: it has other characters or another form.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidRequestError(
            f"{name[:160]!r} is not a model name: write namespace/name in letters, digits, '-', '.' and '_'",
            param="name",
            code="invalid_name",
        )
    return name
