"""The listening sockets, and every way in which a port cannot be had."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tokenworks.kit.errors import StartError
from tokenworks.server.listen import listen, local_address


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def test_all_share_one_port() -> None:
    sockets = listen("127.0.0.1", 0, 3)
    assert len({one.getsockname() for one in sockets}) == 1
    address = local_address(sockets[0])
    assert address == f"127.0.0.1:{sockets[0].getsockname()[1]}"
    assert all(not one.getblocking() for one in sockets)
    with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1]), 2):
        pass
    close(sockets)


def test_everywhere_is_reached_by_loopback() -> None:
    sockets = listen("0.0.0.0", 0, 1)
    assert local_address(sockets[0]).startswith("127.0.0.1:")
    close(sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_taken_port_is_a_sentence_even_if_it_is_shared(host: str, is_shared: bool) -> None:
    with socket.socket() as other:
        if is_shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on 127.0.0.1 is taken by another program"):
            listen("127.0.0.1", port, 2)


def test_a_port_with_old_connections_can_be_had_again() -> None:
    (first,) = listen("127.0.0.1", 0, 1)
    first.setblocking(True)
    port = first.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = first.accept()
    server.close()  # Who closes first keeps the port in TIME_WAIT.
    client.recv(1)
    client.close()
    first.close()
    close(listen("127.0.0.1", port, 1))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "300.1.1.1"])
def test_a_host_that_is_not_ours_is_a_sentence(host: str) -> None:
    with pytest.raises(StartError, match="is not an address of this machine"):
        listen(host, 0, 1)


def test_a_port_below_1024_is_a_sentence() -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if first.exists() and int(first.read_text()) <= 81:
        pytest.skip("here anybody may listen on any port")
    # In a process of its own: this one must not become another user, who cannot read what belongs to the tests.
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "may not listen on port 81" in done.stdout or "not allowed" in done.stdout


_AS_NOBODY = """
import os
from tokenworks.kit.errors import StartError
from tokenworks.server.listen import listen
for one in listen("127.0.0.1", 0, 1):
    one.close()
is_root = os.geteuid() == 0
if is_root:
    os.seteuid(65534)
try:
    listen("127.0.0.1", 81, 1)
except StartError as error:
    print(error.message)
finally:
    if is_root:
        os.seteuid(0)
"""
