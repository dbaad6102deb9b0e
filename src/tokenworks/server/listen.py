"""The listening sockets: one per door, on one port, owned by the supervisor.

A door inherits its socket, so connections wait in it while the door is started again, and none is refused. All share
the port by SO_REUSEPORT. That option would also let a stranger's port be shared silently, so the port is first tried
without it.
"""

import errno
import socket

from tokenworks.kit.errors import StartError

BACKLOG = 4096

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open `count` sockets that listen on one port; port 0 lets the system choose it.

    Raises:
        StartError: the address cannot be used; the message says why.
    """
    family, place = _resolve(host, port)
    sockets: list[socket.socket] = []
    try:
        with _bind(family, place, is_shared=False) as probe:
            # The system chooses once, for all of them.
            place = (place[0], probe.getsockname()[1])
        sockets.extend(_bind(family, place, is_shared=True) for _ in range(count))
        for one in sockets:
            one.listen(BACKLOG)
            one.setblocking(False)
    except OSError as error:
        for one in sockets:
            one.close()
        raise StartError(_sentence(error, host, place[1])) from error
    return sockets


def local_address(listener: socket.socket) -> str:
    """`host:port` under which this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    return f"{_ANYWHERE.get(host, host)}:{port}"


def url_of(address: str) -> str:
    """`host:port` as a URL."""
    host, _, port = address.rpartition(":")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(
            f"the host {host!r} is not an address of this machine ({error}); set TOKENWORKS_HOST"
        ) from error
    # IPv4 first where a name has both, as curl and browsers reach it either way.
    family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, (str(place[0]), int(place[1]))


def _bind(family: socket.AddressFamily, place: tuple[str, int], *, is_shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(place)
    except BaseException:
        one.close()
        raise
    return one


def _sentence(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another program; stop it, or set TOKENWORKS_PORT to another port"
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; set TOKENWORKS_PORT to a port from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"the host {host!r} is not an address of this machine; set TOKENWORKS_HOST"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"
