"""Times as people write them."""

import pytest

from tokenworks.cli.times import parse_future, parse_past
from tokenworks.kit.errors import InvalidRequestError

NOON = 1_767_268_800_000


class Noon:
    """A clock that stands."""

    def now_ms(self) -> int:
        return NOON

    def monotonic_ms(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("30s", NOON - 30_000),
        ("90m", NOON - 5_400_000),
        ("24h", NOON - 86_400_000),
        ("7d", NOON - 604_800_000),
        ("2026-01-01", NOON - 43_200_000),
        ("2026-01-01T12:00", NOON),
        ("2026-01-01T12:00:00.250Z", NOON + 250),
        ("2026-01-01T14:00+02:00", NOON),
        ("1960-01-01T00:00:00.999", -315_619_199_001),
    ],
)
def test_past(text: str, expected: int | None) -> None:
    assert parse_past("--since", text, Noon()) == expected


def test_future() -> None:
    assert parse_future("--expires", "1h", Noon()) == NOON + 3_600_000


@pytest.mark.parametrize("text", ["yesterday", "5", "5w", "-1h", "2026-13-01", "1" * 30 + "d", "2026-01-01 "])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="--since"):
        parse_past("--since", text, Noon())
