"""The arithmetic of the benchmarks' reports."""

import pytest

from benchmarks.figures import Figure, interval, per_chunk, show, table


def test_ratio_is_taken_round_by_round() -> None:
    ratio = Figure((20.0, 60.0)).over(Figure((10.0, 20.0)))
    assert ratio.rounds == (2.0, 3.0)
    assert ratio.median == 2.5


def test_ratio_of_unequal_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Figure((1.0, 2.0)).over(Figure((1.0,)))


def test_further_chunks_cost_the_difference() -> None:
    assert per_chunk(Figure((136.0,)), Figure((10.0,)), 64).rounds == (2.0,)


def test_interval_lies_within_the_rounds_and_repeats() -> None:
    figure = Figure((0.97, 0.99, 1.0, 1.01, 0.98))
    low, high = interval(figure, 500)
    assert 0.97 <= low < 0.99 < high <= 1.01
    assert interval(figure, 500) == (low, high)


def test_interval_of_equal_rounds_is_a_point() -> None:
    assert interval(Figure((0.5, 0.5, 0.5)), 100) == (0.5, 0.5)


def test_table_is_aligned_markdown() -> None:
    assert table(["a", "value"], [["x", "1"], ["long", "22"]]).splitlines() == [
        "| a    | value |",
        "| ---- | ----: |",
        "| x    |     1 |",
        "| long |    22 |",
    ]


def test_spread_is_shown_when_there_is_one() -> None:
    assert show(Figure((1.0, 2.0, 6.0))) == "2.0 (1.0-6.0)"
    assert show(Figure((1.234,)), 2) == "1.23"
