"""Whatever happens to a journal's bytes: no whole record is lost, none is invented, recovery ends in one state."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.metering.builders import recover
from tokenworks.metering.journal import FRAME_BYTES_MAX, encode, measure_shipment, scan
from tokenworks.metering.model import Closed, Counts, Opened, Progress, Record, Status
from tokenworks.metering.policy import find_fault

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
ids = st.sampled_from(["a", "b", "c", "d"])
times = st.integers(0, 2**42)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    input_tokens = draw(st.integers(0, 2**53 - 1))
    return Counts(input_tokens, draw(st.integers(0, input_tokens)), draw(st.integers(0, 2**53 - 1)))


opened = st.builds(Opened, ids, st.none() | texts, texts, texts, texts, texts, texts, times)
progress = st.builds(Progress, ids, counts())
closed = st.builds(
    Closed,
    ids,
    st.none() | texts,
    texts,
    texts,
    texts,
    texts,
    texts,
    times,
    times.map(lambda time: time + 2**42),
    st.sampled_from(Status),
    texts,
    counts(),
)
records: st.SearchStrategy[list[Record]] = st.lists(opened | progress | closed, max_size=12)


def spans(frames: list[bytes]) -> list[tuple[int, int]]:
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    return list(zip([0, *ends], ends, strict=False))


@given(records)
def test_what_is_written_is_read_and_sound(written: list[Record]) -> None:
    found = scan(b"".join(map(encode, written)) + bytes(100))
    assert [entry.record for entry in found.entries] == written
    assert not found.torn_bytes
    assert all(find_fault(record) is None for record in written)


@given(records, st.data())
def test_a_cut_anywhere_loses_only_the_record_that_it_cuts(written: list[Record], data: st.DataObject) -> None:
    frames = list(map(encode, written))
    content = b"".join(frames)
    cut = data.draw(st.integers(0, len(content)))
    found = scan(content[:cut] + bytes(50))
    whole = [record for record, (_, end) in zip(written, spans(frames), strict=True) if end <= cut]
    read = [entry.record for entry in found.entries]
    # Zeros take the place of what is cut off: a record whose cut bytes were zeros is whole again, and right.
    assert read[: len(whole)] == whole
    assert read == written[: len(read)]


@given(records, st.data())
def test_damage_loses_only_the_records_that_it_touches(written: list[Record], data: st.DataObject) -> None:
    frames = list(map(encode, written))
    content = bytearray(b"".join(frames))
    touched = data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=5)) if content else []
    for place in touched:
        content[place] ^= data.draw(st.integers(1, 255))
    found = scan(bytes(content))
    untouched = [
        (start, record)
        for record, (start, end) in zip(written, spans(frames), strict=True)
        if not any(start <= place < end for place in touched)
    ]
    read = [(entry.offset, entry.record) for entry in found.entries if entry.record is not None]
    assert [pair for pair in read if pair in untouched] == untouched, "nothing is lost"
    same = [pair for pair in read if pair in list(zip((start for start, _ in spans(frames)), written, strict=True))]
    assert read == same, "nothing is invented (a byte that was changed back is no change)"
    ends = [0, *(entry.end for entry in found.entries)]
    assert [entry.offset for entry in found.entries] == ends[:-1], "without gaps"


@given(st.binary(max_size=300), records, st.binary(max_size=300))
def test_anything_around_records_does_not_hide_them(before: bytes, written: list[Record], after: bytes) -> None:
    content = before + b"".join(map(encode, written)) + after
    read = [entry.record for entry in scan(content).entries]
    start = len(read) - len(written)
    assert start >= 0
    assert read[start:] == written or any(read[at : at + len(written)] == written for at in range(start + 1))


@given(records, st.lists(st.binary(min_size=1, max_size=60), max_size=4), st.integers(1, 400), st.data())
def test_shipments_are_the_journal_and_never_cut_a_record(
    written: list[Record], damage: list[bytes], limit: int, data: st.DataObject
) -> None:
    parts = list(map(encode, written))
    for stretch in damage:
        parts.insert(data.draw(st.integers(0, len(parts))), stretch)
    content = b"".join(parts)
    found = scan(content)
    end = len(content)
    position = 0
    shipped: list[Record] = []
    while position < end:
        window = content[position : position + limit + FRAME_BYTES_MAX]
        size = measure_shipment(window, limit)
        assert size > 0
        shipped += [entry.record for entry in scan(window[:size]).entries if entry.record is not None]
        position += size
    assert shipped == [entry.record for entry in found.entries if entry.record is not None]


@given(records)
def test_recovery_closes_what_is_open_once_and_never_twice(written: list[Record]) -> None:
    ended_at_ms = 2**43
    made = recover(written, ended_at_ms)
    assert len({record.request_id for record in made}) == len(made)
    assert {record.status for record in made} <= {Status.INTERRUPTED}
    assert recover([*written, *made], ended_at_ms) == [], "a second recovery has nothing to do"
    for record in made:
        seen = [each.counts for each in written if isinstance(each, Progress) and each.request_id == record.request_id]
        assert record.counts.output_tokens <= max((each.output_tokens for each in seen), default=0), "none invented"
        assert find_fault(record) is None


@given(records, st.data())
def test_recovery_after_a_crash_in_recovery_comes_to_the_same(written: list[Record], data: st.DataObject) -> None:
    made = recover(written, 2**43)
    kept = made[: data.draw(st.integers(0, len(made)))]
    assert kept + recover([*written, *kept], 2**43) == made
