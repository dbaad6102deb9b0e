"""Real processes: their configuration, address, log, end, and everything that is started with them."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.cluster.programs import ANNOUNCE, FAILS, HEAD, STUBBORN, make_local, make_spec
from tokenworks.cluster.adapters.local import LocalProcesses
from tokenworks.cluster.model import ProcessStatus
from tokenworks.kit.errors import StartError


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalProcesses]:
    processes = make_local(tmp_path)
    yield processes
    processes.kill_all()
    await processes.stop_all()


async def until(condition: Callable[[ProcessStatus], bool], local: LocalProcesses) -> ProcessStatus:
    async with asyncio.timeout(10):
        while True:
            (status,) = await local.list()
            if condition(status):
                return status
            await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_child_gets_its_config_and_announces_its_address(local: LocalProcesses, tmp_path: Path) -> None:
    begun = await local.start(make_spec(ANNOUNCE, labels={"deployment": "small"}))
    assert begun.exit_code is None
    assert begun.labels == {"deployment": "small"}
    status = await until(lambda one: one.address is not None, local)
    assert status.address == "127.0.0.1:4711"
    assert b"secret" not in Path(f"/proc/{status.pid}/cmdline").read_bytes()
    assert b"secret" not in Path(f"/proc/{status.pid}/environ").read_bytes()
    assert Path(f"/proc/{status.pid}/cwd").resolve() == tmp_path.resolve()
    # Ctrl-C in the parent's terminal goes to the parent's session.
    assert os.getsid(status.pid) == status.pid != os.getsid(0)


async def test_starting_what_runs_changes_nothing(local: LocalProcesses) -> None:
    one, two = await asyncio.gather(local.start(make_spec(ANNOUNCE)), local.start(make_spec(ANNOUNCE)))
    three = await local.start(make_spec(ANNOUNCE))
    assert one.pid == two.pid == three.pid
    assert len(await local.list()) == 1


async def test_stop_ends_and_forgets(local: LocalProcesses) -> None:
    status = await local.start(make_spec(ANNOUNCE))
    await local.stop("a")
    assert await local.list() == ()
    assert not is_alive(status.pid)
    await local.stop("a")
    await local.stop("nobody")
    assert await local.wait("a") is None


async def test_who_does_not_stop_is_killed(local: LocalProcesses) -> None:
    status = await local.start(make_spec(STUBBORN, stop_ms_max=100))
    await until(lambda one: one.address is not None, local)
    ended = asyncio.create_task(local.wait("a"))
    await asyncio.sleep(0)
    await local.stop("a")
    assert not is_alive(status.pid)
    last = await ended
    assert last is not None
    assert last.exit_code == -signal.SIGKILL


async def test_an_end_is_noticed_at_once_with_its_reason(local: LocalProcesses, tmp_path: Path) -> None:
    await local.start(make_spec(FAILS))
    status = await local.wait("a")
    assert status is not None
    assert (status.exit_code, status.last_line) == (2, "the model is missing")
    assert (tmp_path / "a.log").read_text() == "first line\nthe model is missing\n"
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600
    # What has ended stays listed, and can be started again.
    assert [one.exit_code for one in await local.list()] == [2]
    again = await local.start(make_spec(ANNOUNCE))
    assert again.pid != status.pid
    assert again.exit_code is None


async def test_a_killed_child_tells_its_signal(local: LocalProcesses) -> None:
    status = await local.start(make_spec(ANNOUNCE))
    os.kill(status.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        ended = await local.wait("a")
    assert ended is not None
    assert ended.exit_code == -9


async def test_what_a_child_started_ends_with_it(local: LocalProcesses, tmp_path: Path) -> None:
    program = HEAD + (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "open('grandchild', 'w').write(str(child.pid))\n"
        "announce('127.0.0.1:1')\n"
        "threading.Event().wait()\n"
    )
    status = await local.start(make_spec(program))
    await until(lambda one: one.address is not None, local)
    grandchild = int((tmp_path / "grandchild").read_text())
    assert is_alive(grandchild)
    os.kill(status.pid, signal.SIGKILL)
    await local.wait("a")
    await until_true(lambda: not is_alive(grandchild))


async def test_a_grandchild_outside_the_group_does_not_hide_the_end(local: LocalProcesses, tmp_path: Path) -> None:
    program = HEAD + (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "open('grandchild', 'w').write(str(child.pid))\n"
        "os._exit(5)\n"
    )
    await local.start(make_spec(program))
    try:
        async with asyncio.timeout(5):
            status = await local.wait("a")
        assert status is not None
        assert status.exit_code == 5
    finally:
        os.kill(int((tmp_path / "grandchild").read_text()), signal.SIGKILL)


async def test_a_passed_socket_arrives_and_nothing_else(local: LocalProcesses, tmp_path: Path) -> None:
    program = HEAD + (
        "import socket\n"
        "one = socket.socket(fileno=config['fd'])\n"
        "seen = os.listdir('/proc/self/fd')\n"
        "seen = [fd for fd in seen if os.path.exists('/proc/self/fd/' + fd)]\n"
        "open('fds', 'w').write(' '.join(seen))\n"
        "open('links', 'w').write('\\n'.join(os.readlink('/proc/self/fd/' + fd) for fd in seen))\n"
        "announce('%s:%d' % one.getsockname())\n"
        "threading.Event().wait()\n"
    )
    with socket.socket() as listener, (tmp_path / "private").open("w") as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        os.set_inheritable(other.fileno(), True)
        spec = make_spec(program, config={"fd": listener.fileno()}, pass_fds=(listener.fileno(),))
        await local.start(spec)
        status = await until(lambda one: one.address is not None, local)
        assert status.address == f"127.0.0.1:{listener.getsockname()[1]}"
        seen = (tmp_path / "fds").read_text().split()
        assert str(listener.fileno()) in seen
        assert not any(str(tmp_path / "private") in link for link in (tmp_path / "links").read_text().splitlines())


async def test_what_stdout_says_goes_to_the_log(local: LocalProcesses, tmp_path: Path) -> None:
    program = HEAD + "print('loading', flush=True)\nannounce('h:1')\nprint('no newline', end='', flush=True)\n"
    await local.start(make_spec(program))
    status = await local.wait("a")
    assert status is not None
    assert (status.address, status.exit_code, status.last_line) == ("h:1", 0, "no newline")
    assert (tmp_path / "a.log").read_text() == "loading\nno newline"


async def test_a_line_that_never_ends_is_not_kept(local: LocalProcesses, tmp_path: Path) -> None:
    await local.start(make_spec(HEAD + "sys.stdout.write('x' * 300000)\nsys.stdout.flush()\n"))
    status = await local.wait("a")
    assert status is not None
    assert (tmp_path / "a.log").read_text().replace("\n", "") == "x" * 300000
    assert len(status.last_line) <= 1000


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("/nonexistent/program",), "there is no program /nonexistent/program"),
        (("/etc/passwd",), "is not executable"),
        (("",), "cannot start a"),
        (("bad\0name",), "cannot start a: embedded null byte"),
        ((sys.executable, "x" * 3_000_000), "cannot start a: .*too long"),
    ],
)
async def test_a_start_that_cannot_be_is_a_sentence(
    local: LocalProcesses, argv: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        await local.start(replace(make_spec(ANNOUNCE), argv=argv))
    assert await local.list() == ()


async def test_stop_all_waits_for_what_is_starting(local: LocalProcesses) -> None:
    starting = [asyncio.create_task(local.start(make_spec(ANNOUNCE, name))) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    for task in starting:
        task.cancel()
    await local.stop_all()
    assert await local.list() == ()


async def test_a_start_during_the_stop_waits_for_its_end(local: LocalProcesses) -> None:
    first = await local.start(make_spec(ANNOUNCE))
    stopping = asyncio.create_task(local.stop("a"))
    await asyncio.sleep(0)
    second = await local.start(make_spec(ANNOUNCE))
    await stopping
    assert second.pid != first.pid
    assert [one.pid for one in await local.list()] == [second.pid]


async def test_children_of_a_killed_parent_end(tmp_path: Path) -> None:
    """kill -9 of a parent at a random moment of its starting children leaves none of them."""
    parent = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.integration.cluster.programs import ANNOUNCE, make_local, make_spec\n"
        "async def main():\n"
        "    local = make_local(Path(sys.argv[1]))\n"
        "    for number in range(100):\n"
        "        status = await local.start(make_spec(ANNOUNCE, f'c{number}'))\n"
        "        print(status.pid, flush=True)\n"
        "        await asyncio.sleep(0.02)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, str(tmp_path),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(await process.stdout.readline()) for _ in range(4)]
    process.kill()
    pids += [int(line) for line in (await process.stdout.read()).split()]
    await process.wait()
    await until_true(lambda: not any(is_alive(pid) for pid in pids))
    marks = [path for path in Path("/proc").glob("[0-9]*/cwd") if _leads_to(path, tmp_path)]
    assert marks == []


def _leads_to(path: Path, folder: Path) -> bool:
    try:
        return path.readlink() == folder.resolve() and is_alive(int(path.parent.name))
    except OSError:
        return False
