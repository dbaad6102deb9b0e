"""Finds the tokenworks that a command speaks to: `TOKENWORKS_URL` and `TOKENWORKS_API_KEY`, else the local home's.

What lies in the home is believed only while its lock is held: a tokenworks that was killed leaves its address behind,
and whoever got that port since then must not be sent the administrator's key.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from tokenworks.client.client import Client
from tokenworks.kit.config import ClientSettings, Settings, read_settings
from tokenworks.kit.errors import AuthenticationError, UnavailableError
from tokenworks.kit.files import is_locked


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
        if is_locked(home.home / "lock"):
            return (home.run_dir / "address").read_text().strip()
    except OSError:
        pass  # It has only just begun, and answers nowhere yet.
    raise UnavailableError(
        f"no tokenworks runs on the home {home.home}; start one with `tokenworks up`, or set TOKENWORKS_URL"
    )


def _read_key(home: Settings, url: str) -> str:
    if not _is_loopback(url):  # the administrator's key of this machine is nothing for another one
        raise AuthenticationError(f"no key for {url}; set TOKENWORKS_API_KEY")
    path = home.home / "admin.key"
    try:
        key = path.read_text().strip()
    except PermissionError:
        raise AuthenticationError(
            f"{path} belongs to another user; set TOKENWORKS_API_KEY to a key of your own"
        ) from None
    except OSError:
        raise AuthenticationError(f"no key: {path} does not exist; set TOKENWORKS_API_KEY") from None
    if not is_locked(home.home / "lock"):
        raise AuthenticationError(
            f"no tokenworks runs on the home {home.home}, so its key is not sent to {url};"
            " start one with `tokenworks up`, or set TOKENWORKS_API_KEY"
        )
    return key


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
