"""The arithmetic of the reports: medians over rounds, ratios within a round, tables. Pure.

Gateways are measured in turn within each round, so a ratio is taken round by round and a machine that slows down for a
while moves both sides of it.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A value that was measured once per round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)

    def over(self, other: "Figure") -> "Figure":
        """The ratio to another figure, round by round."""
        return Figure(tuple(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)))

    def as_json(self) -> dict[str, object]:
        """Median, spread and every round."""
        return {"median": self.median, "low": self.low, "high": self.high, "rounds": list(self.rounds)}


def per_chunk(many: Figure, one: Figure, chunks: int) -> Figure:
    """What each further chunk costs: a stream of `chunks` less a stream of one, by the chunks between them."""
    return Figure(tuple((a - b) / (chunks - 1) for a, b in zip(many.rounds, one.rounds, strict=True)))


def interval(figure: Figure, draws: int = 10_000) -> tuple[float, float]:
    """Where the mean lies with 95 % probability, by drawing rounds again and again (percentile bootstrap)."""
    rng = random.Random(1)  # the same rounds give the same interval
    count = len(figure.rounds)
    means = sorted(statistics.fmean(rng.choices(figure.rounds, k=count)) for _ in range(draws))
    return means[int(draws * 0.025)], means[int(draws * 0.975) - 1]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns; all but the first are set to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    return "\n".join([line(header), f"| {' | '.join(rule)} |", *(line(row) for row in rows)])


def show(figure: Figure, digits: int = 1) -> str:
    """`median (low-high)`."""
    if len(figure.rounds) == 1:
        return f"{figure.median:.{digits}f}"
    return f"{figure.median:.{digits}f} ({figure.low:.{digits}f}-{figure.high:.{digits}f})"
