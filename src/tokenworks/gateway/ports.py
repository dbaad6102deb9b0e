"""What the door's loops need from control, and what a connection needs from who answers its request."""

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


class Handler(Protocol):
    """Who answers a request."""

    def on_client_lost(self) -> None:
        """The client is gone; nothing can be sent any more."""
        ...

    def pause(self) -> None:
        """The client reads too slowly: send less for now."""
        ...

    def resume(self) -> None:
        """Go on sending."""
        ...
