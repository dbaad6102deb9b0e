"""The child's side, without a process: what is a configuration, and what ends the watch."""

import os
import threading

import pytest

from tokenworks.cluster import child
from tokenworks.kit.errors import StartError


def test_the_configuration_is_one_line() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"a": "' + b"x" * 50_000 + b'"}\n')
    assert child._parse(child._read_line(reading)) == {"a": "x" * 50_000}
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b"[1]\n", b"\xff\n"])
def test_what_is_none(content: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with pytest.raises(StartError):
        child._parse(child._read_line(reading))
    os.close(reading)


def test_the_end_of_stdin_is_the_end() -> None:
    reading, writing = os.pipe()
    gone = threading.Event()
    watch = threading.Thread(target=child._watch, args=(reading, gone.set))
    watch.start()
    os.write(writing, b"more is ignored")
    assert not gone.is_set()
    os.close(writing)
    watch.join(timeout=5)
    assert gone.is_set()
    os.close(reading)


def test_a_stdin_that_fails_is_the_end_too() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    gone = threading.Event()
    child._watch(reading, gone.set)
    assert gone.is_set()


def test_the_address_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    child.announce("127.0.0.1:4711")
    assert capfd.readouterr().out == "TOKENWORKS_ADDRESS 127.0.0.1:4711\n"
