"""A function fits a screen, a file can be read in one go (ruff measures lines, arguments and complexity)."""

import pytest

from tests.tidy.sources import Source, everything, python_files

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

EVERY_FILE = pytest.mark.parametrize("source", everything(), ids=lambda source: source.name)


def test_something_is_looked_at() -> None:
    assert len(python_files("src")) > 20


@EVERY_FILE
def test_file_is_short(source: Source) -> None:
    assert len(source.text.splitlines()) <= FILE_LINES_MAX, f"{source.name}: split it by noun"


@EVERY_FILE
def test_functions_are_short(source: Source) -> None:
    long = [
        f"{source.at(node.lineno)} {node.name}: {lines} lines"
        for node in source.functions
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)
