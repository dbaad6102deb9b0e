"""Times as people write them in options: `90m`, `24h` and `7d` from now, or a date. Without an offset it is UTC."""

import re
from datetime import UTC, datetime, timedelta

from tokenworks.kit.clock import Clock, SystemClock
from tokenworks.kit.errors import InvalidRequestError

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"(\d{1,9})([smhd])")


def parse_past(option: str, text: str, clock: Clock | None = None) -> int | None:
    """Return the time, in ms since 1970, that `text` names; a duration counts back from now. Empty is None.

    Raises:
        InvalidRequestError: the text is neither a duration nor a date.
    """
    return _parse(option, text, -1, clock or SystemClock())


def parse_future(option: str, text: str, clock: Clock | None = None) -> int | None:
    """Return the time that `text` names, as `parse_past`; a duration counts forward from now."""
    return _parse(option, text, 1, clock or SystemClock())


def _parse(option: str, text: str, direction: int, clock: Clock) -> int | None:
    if not text:
        return None
    if duration := _DURATION.fullmatch(text):
        return clock.now_ms() + direction * int(duration[1]) * _UNITS_MS[duration[2]]
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            f"{option} {text!r} is not a time; write 24h, 7d, 2030-01-31 or 2030-01-31T08:00", param=option
        ) from None
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (zoned - _EPOCH) // timedelta(milliseconds=1)
