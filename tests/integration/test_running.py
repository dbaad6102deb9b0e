"""What we ship for the tests of our users: a real tokenworks that starts, dies, comes back and leaves nothing."""

from pathlib import Path

import pytest

from tokenworks.accounts.wire import ORGANIZATIONS_CREATE, ORGANIZATIONS_LIST, OrganizationCreate
from tokenworks.kit.errors import AuthenticationError, StartError
from tokenworks.testing.running import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_it_keeps_home_and_address_over_a_kill_and_a_stop() -> None:
    with running() as tokenworks:
        url, key = tokenworks.url, tokenworks.key
        tokenworks.client().call(ORGANIZATIONS_CREATE, OrganizationCreate("acme"))
        tokenworks.kill()
        tokenworks.start()
        assert (tokenworks.url, tokenworks.key) == (url, key)
        assert "acme" in {row.name for row in tokenworks.client().call(ORGANIZATIONS_LIST).data}
        with pytest.raises(AuthenticationError):
            tokenworks.client("tw-wrong").call(ORGANIZATIONS_LIST)
        assert tokenworks.stop() == 0
        assert tokenworks.output.count("tokenworks answers at ") == 2
        folder = tokenworks.home.parent
        assert folder.exists()
    assert not folder.exists()


def test_down_stops_it_and_says_when_there_is_none() -> None:
    with running() as tokenworks:
        assert tokenworks.run("down").stdout == "tokenworks has stopped\n"
        assert tokenworks.process is not None
        assert tokenworks.process.wait(10) == 0
        again = tokenworks.run("down")
        assert (again.returncode, again.stderr) == (0, "")
        assert "no tokenworks runs on the home" in again.stdout
        refused = tokenworks.run("orgs", "list")
        assert refused.returncode == 1
        assert "start one with `tokenworks up`" in refused.stderr


def test_a_start_that_fails_says_what_was_printed(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    with pytest.raises(StartError, match=r"(?s)ended with code 1:.*tokenworks: "), running(tmp_path / "home"):
        pytest.fail("it started on a file")
