"""Times as the API writes them."""

import pytest

from tokenworks.metering.api import format_time
from tokenworks.metering.policy import TIME_MS_MAX


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_769_860_800_007, "2026-01-31T12:00:00.007Z"),
        (TIME_MS_MAX, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(milliseconds: int, expected: str) -> None:
    assert format_time(milliseconds) == expected
