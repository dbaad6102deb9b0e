"""How commands print: one JSON document for programs, a table for people."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_array(values: Iterable[object]) -> None:
    """Print one JSON array, an element a line, while the values come: none of them is kept."""
    first = True
    for value in values:
        sys.stdout.write("[\n  " if first else ",\n  ")
        sys.stdout.write(msgspec.json.encode(value).decode())
        first = False
    sys.stdout.write("[]\n" if first else "\n]\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table in full width: numbers to the right, nothing cut. Without rows print the sentence `empty`."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    if not cells:
        print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        is_number = isinstance(cells[0][index], int)
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(readable(cell)) for cell in row))
    console = Console(highlight=False)
    width = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    Console(highlight=False, width=max(width, console.width)).print(table)


def drop_stdout() -> None:
    """Whoever read our output has left: what is still buffered must not fail once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def readable(value: object) -> str:
    """Return a value as a cell or a line: nothing for None, and no character that would steer a terminal."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(readable(item) for item in value)
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def show_time(at_ms: int | None) -> str:
    """Return a time in UTC, to the second."""
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
