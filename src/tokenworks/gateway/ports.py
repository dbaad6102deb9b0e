"""What the door's loops need from control."""

from typing import Protocol

from tokenworks.region.model import Snapshot


class SnapshotSource(Protocol):
    """Where snapshots come from."""

    async def next(self, etag: str) -> Snapshot | None:
        """Wait until the snapshot is another than `etag` and return it; None when it still holds after a while.

        Raises:
            TokenworksError: control is away or answered nonsense.
        """
        ...
