"""What the region needs from its neighbours: what is wanted, and what runs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from tokenworks.cluster.model import ProcessStatus
from tokenworks.serving.model import Deployment, Replica

ListDeployments = Callable[[AsyncConnection], Awaitable[Sequence[Deployment]]]
"""All deployments, inside a transaction."""

ListReplicas = Callable[[], Sequence[Replica]]
"""All replicas that control knows of at this moment, in any state."""

ListProcesses = Callable[[], Awaitable[Sequence[ProcessStatus]]]
"""All processes that the supervisor runs. Raises UnavailableError while it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the region looks."""

    deployments: ListDeployments
    replicas: ListReplicas
    processes: ListProcesses
