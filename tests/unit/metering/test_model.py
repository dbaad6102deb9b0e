"""Positions and the error that carries one."""

from tokenworks.kit.errors import ConflictError
from tokenworks.metering.model import START, Position, PositionConflictError


def test_later_places_compare_greater() -> None:
    assert START < Position(1, 0) < Position(1, 9) < Position(2, 0)


def test_position_conflict_tells_where_control_stands() -> None:
    error = PositionConflictError("not here", Position(3, 7))
    assert isinstance(error, ConflictError)
    assert (error.position, error.http_status, error.code) == (Position(3, 7), 409, "conflict")
