"""The log of a process stays within its size, whatever is written."""

from pathlib import Path

from tokenworks.cluster.adapters.log_file import LogFile


def test_it_appends_over_several_processes(tmp_path: Path) -> None:
    for number in range(2):
        log = LogFile(tmp_path / "a.log", 1000)
        log.write(b"line %d\n" % number)
        log.close()
    assert (tmp_path / "a.log").read_text() == "line 0\nline 1\n"


def test_it_turns_over_at_its_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 100)
    for number in range(100):
        log.write(b"%09d\n" % number)
    log.close()
    assert (tmp_path / "a.log").read_bytes() + b"" == b"".join(b"%09d\n" % n for n in range(90, 100))
    assert (tmp_path / "a.log.1").stat().st_size == 100
    assert len(list(tmp_path.iterdir())) == 2


def test_one_write_over_the_limit_is_kept_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 10)
    log.write(b"x" * 50)
    log.close()
    assert (tmp_path / "a.log").stat().st_size == 50


def test_the_last_line_is_known_in_pieces_and_without_an_end(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 1000)
    log.write(b"one\ntw")
    assert log.last_line == "one"
    log.write(b"o\n\n  \n")
    assert log.last_line == "two"
    log.write(b"\xff three ")
    log.close()
    assert log.last_line == "\ufffd three"


def test_a_log_that_cannot_be_written_loses_lines_only(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "missing" / "a.log", 1000)
    log.write(b"lost\n")
    assert log.last_line == "lost"
    (tmp_path / "missing").mkdir()
    log.write(b"kept\n")
    log.close()
    assert (tmp_path / "missing" / "a.log").read_text() == "kept\n"
