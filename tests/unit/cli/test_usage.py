"""`tokenworks usage`: every page is asked for, nothing is lost, filters reach the API."""

import typing
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.cli.conftest import Cardboard, Run
from tokenworks.cli.usage import By, show_nano
from tokenworks.metering.model import SumBy

ROWS_PATH = "/admin/v1/usage/requests"


def row(number: int) -> dict[str, object]:
    return {
        "request_id": f"req_{number}",
        "client_request_id": None,
        "organization": "default",
        "project": "default",
        "key_id": "key_1",
        "model": "smollm2",
        "input_tokens": 12,
        "cached_input_tokens": 3,
        "output_tokens": number,
        "cost_nano": 0,
        "currency": "USD",
        "energy_microjoules": None,
        "energy_source": None,
        "status": "completed",
        "reason": "",
        "started_at": "2026-01-01T00:00:00.000Z",
        "ended_at": "2026-01-01T00:00:01.000Z",
    }


def pages(*sizes: int) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    first = 0
    for index, size in enumerate(sizes):
        cursor = f"c{index}" if index + 1 < len(sizes) else None
        made.append({"data": [row(number) for number in range(first, first + size)], "next_cursor": cursor})
        first += size
    return made


def query(board: Cardboard, index: int = -1) -> dict[str, list[str]]:
    return parse_qs(urlsplit(board.asked[index][1]).query)


def test_json_holds_every_request_of_every_page(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = pages(3, 3, 1)
    result = run("usage", "--requests", "--json")
    assert result.json == [row(number) for number in range(7)]
    assert [query(board, index).get("cursor") for index in range(3)] == [None, ["c0"], ["c1"]]


def test_limit_asks_for_no_more(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = pages(3, 3)
    assert len(run("usage", "--requests", "--json", "--limit", "2").json) == 2
    assert len(board.asked) == 1
    assert query(board)["limit"] == ["2"]


def test_nothing_is_an_empty_array(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = pages(0)
    assert run("usage", "--requests", "--json").out == "[]\n"


def test_the_table_says_that_there_is_more(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = pages(51, 1)
    out = run("usage", "--requests").out
    assert "req_49" in out
    assert "req_50" not in out
    assert "newest 50" in out


def test_the_table_of_few_says_nothing_more(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = pages(2)
    assert "newest" not in run("usage", "--requests").out


def test_an_error_between_pages_is_no_success(board: Cardboard, run: Run) -> None:
    board.answers[f"GET {ROWS_PATH}"] = [pages(3, 1)[0], {"error": {"message": "control is away", "status": 503}}]
    result = run("usage", "--requests", "--json")
    assert (result.code, result.err) == (1, "tokenworks: control is away\n")


def test_filters_reach_the_api(board: Cardboard, run: Run) -> None:
    board.answers["GET /admin/v1/usage"] = {"data": []}
    filters = ("--organization", "o", "--project", "p", "--key", "k", "--model", "m")
    run("usage", "--by", "day", *filters, "--since", "2026-01-01", "--until", "2026-01-01T00:00:01.5+00:00")
    assert query(board) == {
        "by": ["day"],
        "organization": ["o"],
        "project": ["p"],
        "key": ["k"],
        "model": ["m"],
        "since_ms": ["1767225600000"],
        "until_ms": ["1767225601500"],
    }


def test_sums(board: Cardboard, run: Run) -> None:
    total = {
        "by": "model",
        "name": "smollm2",
        "organization": None,
        "requests": 2,
        "input_tokens": 24,
        "cached_input_tokens": 6,
        "output_tokens": 1,
        "cost_nano": 1_500_000,
        "currency": "USD",
        "energy_microjoules": None,
    }
    board.answers["GET /admin/v1/usage"] = [{"data": [total]}, {"data": [total]}]
    assert run("usage", "--by", "model", "--json").json == [total]
    assert "0.0015 USD" in run("usage").out


def test_sums_offered_are_sums_known() -> None:
    assert set(typing.get_args(By)) == {by.value for by in SumBy}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--requests", "--by", "key"), "choose one of them"),
        (("--limit", "3"), "--limit needs --requests"),
        (("--since", "yesterday"), "'yesterday' is not a time"),
    ],
)
def test_contradictions_are_refused(board: Cardboard, run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    result = run("usage", *arguments)
    assert result.code == 1
    assert sentence in result.err
    assert not board.asked


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0 USD"), (1, "0.000000001 USD"), (2_500_000_000, "2.5 USD"), (-1_000_000_000, "-1 USD")],
)
def test_amounts_are_exact(nano: int, text: str) -> None:
    assert show_nano(nano, "USD") == text
