"""tokenworks: an open AI cloud that you run yourself; every token is metered exactly once.

The folders stand on a ladder (top imports bottom): testing, cli, server, gateway, region, serving,
hub, metering, accounts, blobs, cluster, client, kit. Start with `docs/architecture.md`.
"""

__version__ = "0.1.0"
