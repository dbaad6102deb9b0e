"""A digest is 64 hex digits and nothing else: it becomes a path."""

import pytest

from tokenworks.blobs.model import check_digest
from tokenworks.kit.errors import InvalidRequestError


def test_a_digest() -> None:
    assert check_digest("0f" * 32) == "0f" * 32


@pytest.mark.parametrize("digest", ["", "0f" * 31, "0F" * 32, "../" + "0" * 61, "0f" * 32 + "\n"])
def test_what_is_none(digest: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_digest(digest)
