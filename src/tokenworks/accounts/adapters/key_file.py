"""The administrator's key in a file that only its owner may read."""

from pathlib import Path

from tokenworks.kit.files import storage_errors, write_atomically

_BYTES_MAX = 4096


class DiskKeyFile:
    """`$TOKENWORKS_HOME/admin.key`, mode 0600, one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        return str(self._path)

    def read(self) -> str | None:
        """Raises: UnavailableError: it is there but cannot be read."""
        with storage_errors(self._path):
            try:
                with self._path.open("rb") as file:
                    return file.read(_BYTES_MAX).decode("utf-8", "replace").strip()
            except FileNotFoundError:
                return None

    def write(self, text: str) -> None:
        """Raises: StorageFullError, UnavailableError: the disk refuses."""
        write_atomically(self._path, text.encode() + b"\n", mode=0o600)
