"""Sixty-four streams at once on the real engine, a third of which leave midway: every row is right."""

from tests.e2e.load import load
from tests.e2e.test_crashes import check_rows, usage_rows
from tokenworks.testing.running import Running


async def test_sixty_four_streams_a_third_of_which_leave(tokenworks: Running) -> None:
    async with load(tokenworks, 64, leaving=True) as seen:
        await seen.more(80)
    assert seen.errors == []
    assert len(seen.left) >= 20
    rows = await usage_rows(tokenworks, seen)
    check_rows(rows, seen)
    assert {rows[request_id]["status"] for request_id in seen.left} <= {"cancelled", "completed"}
    assert all(rows[request_id]["output_tokens"] >= 2 for request_id in seen.left)
