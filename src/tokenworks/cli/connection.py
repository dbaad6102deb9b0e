"""Finds the tokenworks that a command speaks to: `TOKENWORKS_URL` and `TOKENWORKS_API_KEY`, else the local home's."""

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from tokenworks.client.client import Client
from tokenworks.kit.config import ClientSettings, Settings, read_settings
from tokenworks.kit.errors import AuthenticationError, UnavailableError


def open_client(*, timeout_s: int = 60) -> Client:
    """Return a client of the tokenworks that the environment, or else the local home, names.

    Raises:
        UnavailableError: no address is set and none was started on the local home.
        AuthenticationError: no key is set and the local home has none that may be used.
    """
    wanted = ClientSettings()
    home = read_settings()
    url = wanted.url or _read_address(home)
    return Client(url, wanted.api_key or _read_key(home, url), timeout_s=timeout_s)


def _read_address(home: Settings) -> str:
    try:
        return (home.run_dir / "address").read_text().strip()
    except OSError:
        raise UnavailableError(
            f"no tokenworks runs on the home {home.home}; start one with `tokenworks up`, or set TOKENWORKS_URL"
        ) from None


def _read_key(home: Settings, url: str) -> str:
    if not _is_loopback(url):  # the administrator's key of this machine is nothing for another one
        raise AuthenticationError(f"no key for {url}; set TOKENWORKS_API_KEY")
    path = Path(home.home) / "admin.key"
    try:
        return path.read_text().strip()
    except PermissionError:
        raise AuthenticationError(
            f"{path} belongs to another user; set TOKENWORKS_API_KEY to a key of your own"
        ) from None
    except OSError:
        raise AuthenticationError(f"no key: {path} does not exist; set TOKENWORKS_API_KEY") from None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
