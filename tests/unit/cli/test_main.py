"""How the command starts, finds its tokenworks, and ends."""

import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cardboard, Run
from tokenworks import __version__
from tokenworks.cli.up import curl_line, given


def test_version(run: Run) -> None:
    assert run("--version").out == f"tokenworks {__version__}\n"


def test_without_a_command_it_helps(run: Run) -> None:
    result = run()
    assert result.code == 0
    assert "usage" in result.out


def test_a_noun_without_a_verb_helps(run: Run) -> None:
    result = run("keys")
    assert (result.code, result.err) == (2, "")
    assert "revoke" in result.out


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("chat", "--max-tokens", "0"), ("keys", "revoke"), ("up", "--port", "x")]
)
def test_wrong_usage_is_one_sentence(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("tokenworks: ")
    assert result.err.count("\n") == 1


def test_heavy_modules_wait_for_their_command() -> None:
    code = "import sys, tokenworks.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tokenworks.cli.usage" in loaded
    assert not {"asyncio", "fastapi", "numpy", "pydantic", "rich", "sqlalchemy", "uvicorn"} & set(loaded)


def test_the_local_home_is_found(board: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TOKENWORKS_URL")
    monkeypatch.delenv("TOKENWORKS_API_KEY")
    monkeypatch.setenv("TOKENWORKS_HOME", str(tmp_path / "a home"))
    assert "no tokenworks runs on the home" in run("orgs", "list").err
    (tmp_path / "a home" / "run").mkdir(parents=True)
    with held(tmp_path / "a home"):
        assert "no tokenworks runs on the home" in run("orgs", "list").err
        (tmp_path / "a home" / "run" / "address").write_text(board.url + "\n")
        assert "admin.key does not exist" in run("orgs", "list").err
        (tmp_path / "a home" / "admin.key").write_text("tw-home\n")
        board.answers["GET /admin/v1/organizations"] = {"data": []}
        assert run("orgs", "list").code == 0
    assert board.keys == {"Bearer tw-home"}


@pytest.mark.parametrize("is_named", [False, True])
def test_a_stranger_on_the_port_of_a_killed_one_gets_no_key(
    board: Cardboard, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_named: bool
) -> None:
    monkeypatch.delenv("TOKENWORKS_API_KEY")
    if not is_named:
        monkeypatch.delenv("TOKENWORKS_URL")
    monkeypatch.setenv("TOKENWORKS_HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "address").write_text(board.url)
    (tmp_path / "admin.key").write_text("tw-home\n")
    (tmp_path / "lock").touch()
    result = run("status")
    assert result.code == 1
    assert f"no tokenworks runs on the home {tmp_path}" in result.err
    assert board.asked == []


@contextmanager
def held(home: Path) -> Iterator[None]:
    """As a running tokenworks holds it."""
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_the_home_key_is_not_sent_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("tw-home\n")
    monkeypatch.setenv("TOKENWORKS_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENWORKS_URL", "http://192.0.2.1:8080")
    monkeypatch.delenv("TOKENWORKS_API_KEY", raising=False)
    assert run("orgs", "list").err == "tokenworks: no key for http://192.0.2.1:8080; set TOKENWORKS_API_KEY\n"


def test_a_closed_pipe_is_no_traceback(board: Cardboard) -> None:
    rows = [{"name": f"org-{number}", "created_at_ms": 0} for number in range(20_000)]
    board.answers["GET /admin/v1/organizations"] = {"data": rows}
    program = shlex.join([sys.executable, "-m", "tokenworks.cli.main", "orgs", "list", "--json"])
    ended = subprocess.run(
        ["bash", "-c", f"{program} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("[\n", "", 1)


def test_the_curl_line_is_what_a_shell_reads_back() -> None:
    line = curl_line("http://127.0.0.1:8080", "tw-a'b", "smollm2")
    words = shlex.split(line)
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8080/v1/chat/completions"]
    assert "Authorization: Bearer tw-a'b" in words
    assert '"model": "smollm2"' in words[-1]
    assert "\n" not in line


READY = """
from pathlib import Path
from tokenworks.cli.up import say_ready
from tokenworks.server.supervisor import Ready
try:
    say_ready(Ready("http://127.0.0.1:8080", Path(sys.argv[1]), "smollm2"))
except OSError as error:
    print(error.strerror, file=sys.stderr)
"""


def test_a_missing_key_is_said_and_the_rest_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys" + READY, str(tmp_path / "admin.key")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"the file {tmp_path / 'admin.key'} is gone or cannot be read" in done.stdout
    assert "create an empty file" in done.stdout
    assert "Authorization: Bearer KEY" in done.stdout
    (tmp_path / "admin.key").write_text("tw-a\n")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "  key:   tw-a\n" in done.stdout
    assert "Authorization: Bearer tw-a" in done.stdout


@pytest.mark.parametrize("preparing", ["", "; sys.stdout = None"])
def test_nobody_who_reads_is_no_traceback(tmp_path: Path, preparing: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", f"import sys{preparing}" + READY, str(tmp_path / "admin.key")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "" if preparing else "Broken pipe\n")


def test_only_given_options_win() -> None:
    assert given(home=None, port=0) == {"port": 0}


def test_a_missing_settings_file_is_a_sentence(run: Run) -> None:
    result = run("up", "--config", os.devnull + "/none")
    assert result.code == 1
    assert "cannot read the settings file" in result.err
