"""How long a child that ends is waited for, and how its end is told."""

import pytest

from tokenworks.cluster.model import ProcessStatus
from tokenworks.server.keeper import Waits, describe


def test_the_wait_doubles_up_to_its_limit() -> None:
    waits = Waits(100, 1_000)
    assert [waits.after(failures) for failures in (1, 2, 3, 4, 5, 10**6)] == [100, 200, 400, 800, 1_000, 1_000]


@pytest.mark.parametrize(
    ("code", "line", "told"),
    [
        (-9, "some line", "was ended by signal 9"),
        (4, "the journal failed", "ended with code 4 (the journal failed)"),
        (4, "", "ended with code 4"),
        (0, "bye", "ended with code 0"),
    ],
)
def test_an_end_is_told_in_half_a_sentence(code: int, line: str, told: str) -> None:
    assert describe(ProcessStatus("door-0", 5, 1, code, {}, None, line)) == told
