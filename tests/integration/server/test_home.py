"""The home's folders, locks and refusals."""

import asyncio
import errno
import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tokenworks.kit.clock import SystemClock
from tokenworks.kit.config import Settings
from tokenworks.kit.errors import StartError, StorageFullError
from tokenworks.server import home as module
from tokenworks.server.home import Home, find_holder, open_home
from tokenworks.server.supervisor import stop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def open_it(folder: Path) -> Home:
    return await open_home(Settings(home=folder), SystemClock())


async def test_it_is_private_and_complete(folder: Path) -> None:
    home = await open_it(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("run", "logs", "journal"):
        assert (folder / name).stat().st_mode & 0o777 == 0o700
    assert find_holder(folder) == module.Holder(os.getpid(), "")
    home.tell("http://127.0.0.1:1")
    assert find_holder(folder) == module.Holder(os.getpid(), "http://127.0.0.1:1")
    home.close()
    assert find_holder(folder) is None
    assert not (folder / "run" / "address").exists()


async def test_an_open_folder_is_closed_to_others(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (await open_it(folder)).close()
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_what_an_earlier_run_left_is_cleaned(folder: Path) -> None:
    (folder / "run" / "kept").mkdir(parents=True)
    (folder / "lock").touch()
    for name in ("control.sock", "address", ".address.abc.tmp", "room", "usage.db", "other.pid"):
        (folder / "run" / name).touch()
    (await open_it(folder)).close()
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["kept", "other.pid", "usage.db"]


async def test_a_folder_of_somebody_else_is_left_as_it_is(folder: Path) -> None:
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "other.sock").touch()
    (folder / "index.html").touch()
    folder.chmod(0o755)
    with pytest.raises(StartError, match=r"home is not empty and is no home of tokenworks .* set TOKENWORKS_HOME"):
        await open_it(folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in folder.rglob("*")) == ["index.html", "other.sock", "run"]


@pytest.mark.parametrize("name", ["lost+found", "admin.key", "tokenworks.db"])
async def test_a_new_disk_and_a_restored_home_are_taken(folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).touch()
    (await open_it(folder)).close()
    assert (folder / "lock").exists()


async def test_who_only_asks_is_in_nobodys_way(folder: Path) -> None:
    (await open_it(folder)).close()
    descriptor = os.open(folder / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    opening = asyncio.create_task(open_it(folder))
    await asyncio.sleep(0.01)
    os.close(descriptor)
    (await opening).close()


async def test_what_a_killed_one_left_is_not_told_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "run").mkdir(parents=True)
    (folder / "lock").write_text('{"pid":1,"address":"http://127.0.0.1:1"}')
    (folder / "run" / "address").write_text("http://127.0.0.1:1")
    seen = []

    def look(*_: object) -> None:
        seen.append((find_holder(folder), (folder / "run" / "address").exists()))

    monkeypatch.setattr(module, "_check_room", look)
    (await open_it(folder)).close()
    assert seen == [(module.Holder(0), False)]


async def test_a_second_user_is_told_who_is_first(folder: Path) -> None:
    home = await open_it(folder)
    home.tell("http://127.0.0.1:8080")
    with pytest.raises(StartError, match=f"in use by process {os.getpid()} at http://127.0.0.1:8080"):
        await open_it(folder)
    os.ftruncate(home.lock_fd, 0)
    with pytest.raises(StartError, match="in use by another process;"):
        await open_it(folder)
    home.close()
    (await open_it(folder)).close()


async def test_a_file_is_no_home(folder: Path) -> None:
    folder.touch()
    with pytest.raises(StartError, match="is a file; remove it, or set TOKENWORKS_HOME"):
        await open_it(folder)
    with pytest.raises(StartError, match="cannot be used"):
        await open_it(folder / "below")


async def test_a_read_only_place_is_a_sentence(read_only_folder: Path) -> None:
    with pytest.raises(StartError, match="read-only or belongs to another user; TOKENWORKS_HOME chooses"):
        await open_it(read_only_folder / "home")


async def test_a_read_only_home_is_a_sentence(read_only_folder: Path) -> None:
    with pytest.raises(StartError, match="cannot be used"):
        await open_it(read_only_folder)


async def test_a_disk_without_room_is_a_sentence(small_disk: Path) -> None:
    with pytest.raises(StartError, match=r"is full: 16 MiB must be free .* free some room, or set TOKENWORKS_HOME"):
        await open_it(small_disk / "home")
    assert not (small_disk / "home" / "run" / "room").exists()
    assert find_holder(small_disk / "home") is None


async def test_a_full_disk_is_a_sentence(small_disk: Path) -> None:
    for name in ("new", "known"):
        (small_disk / name).mkdir()
    (small_disk / "known" / "lock").touch()
    fill(small_disk)
    for name in ("new", "known"):
        with pytest.raises(StartError, match="the disk .*is full"):
            await open_it(small_disk / name)
        assert find_holder(small_disk / name) is None


async def test_a_disk_that_fills_up_while_it_starts_is_a_sentence(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_check_room", lambda *_: None)
    home = await open_it(small_disk / "home")
    os.ftruncate(home.lock_fd, 0)  # that its room is given to the ballast
    fill(small_disk)
    with pytest.raises(StorageFullError, match="the disk is full: cannot write .*lock; free some room"):
        home.tell("http://127.0.0.1:1")
    home.close()
    with pytest.raises(StartError, match="cannot be used: the disk is full"):
        await open_it(small_disk / "home")


async def test_children_of_an_earlier_run_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (await open_it(folder)).close()
    descriptor = os.open(folder / "children.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1, pass_fds=(descriptor,))
    os.close(descriptor)
    monkeypatch.setattr(module, "_CHILDREN_WAIT_MS", 100)
    with pytest.raises(StartError, match="processes of an earlier tokenworks still use"):
        await open_it(folder)
    monkeypatch.setattr(module, "_CHILDREN_WAIT_MS", 10_000)
    opening = asyncio.create_task(open_it(folder))
    await asyncio.sleep(0.05)
    assert not opening.done()
    child.kill()
    await child.wait()
    (await opening).close()
    assert child.stdin is not None
    child.stdin.close()


def test_a_file_system_without_locks_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StartError, match="cannot lock files"):
        asyncio.run(open_it(folder))


def test_nothing_to_stop(folder: Path) -> None:
    assert find_holder(folder) is None
    assert not stop(Settings(home=folder))
