"""Addresses as text; the sockets themselves are tested in tests/integration/server."""

from tokenworks.server.listen import url_of


def test_an_address_becomes_a_url() -> None:
    assert url_of("127.0.0.1:8080") == "http://127.0.0.1:8080"
    assert url_of("::1:8080") == "http://[::1]:8080"
