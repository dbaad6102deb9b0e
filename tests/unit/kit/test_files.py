"""What the disk says, in sentences. (Writing itself is tested in tests/integration.)"""

import errno
from pathlib import Path

import pytest

from tokenworks.kit.errors import StorageFullError, UnavailableError
from tokenworks.kit.files import storage_error, storage_errors


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StorageFullError, "the disk is full"),
        (errno.EDQUOT, StorageFullError, "the disk is full"),
        (errno.EROFS, UnavailableError, "read-only"),
        (errno.EACCES, UnavailableError, "belongs to another user"),
        (errno.ENOENT, UnavailableError, "missing"),
        (errno.EIO, UnavailableError, "the disk failed"),
    ],
)
def test_each_failure_has_its_sentence(number: int, kind: type[Exception], words: str) -> None:
    error = storage_error(OSError(number, "text"), Path("some/file"))
    assert type(error) is kind
    assert words in error.message
    assert "some/file" in error.message


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), storage_errors(Path("x")):
        raise KeyError
