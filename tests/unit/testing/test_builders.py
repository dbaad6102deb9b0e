"""Builders make values that hold metering's invariants."""

import pytest

from tokenworks.metering.model import Counts, Status
from tokenworks.testing.builders import STARTED_AT_MS, make_closed, make_opened, make_usage


def test_usage_is_what_was_named() -> None:
    assert make_usage(5, 7, cached_input_tokens=3) == Counts(5, 3, 7)


def test_usage_that_cannot_be_is_refused() -> None:
    with pytest.raises(AssertionError, match="part of the input"):
        make_usage(5, cached_input_tokens=6)


def test_closed_repeats_the_identity_of_opened() -> None:
    opened = make_opened("req_7", model="m")
    closed = make_closed("req_7", model="m", status=Status.CANCELLED)
    assert all(getattr(closed, name) == getattr(opened, name) for name in opened.__struct_fields__)
    assert closed.status is Status.CANCELLED


def test_closed_ends_after_its_start() -> None:
    assert make_closed().ended_at_ms == STARTED_AT_MS + 1000
    assert make_closed(started_at_ms=5).ended_at_ms == 1005
