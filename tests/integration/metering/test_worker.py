"""The thread behind a journal."""

import asyncio
import threading
from functools import partial

import pytest

from tokenworks.metering.adapters.worker import Worker


async def test_work_is_done_in_order_in_one_other_thread() -> None:
    worker = Worker("test-worker")
    threads: list[int] = []

    def work(number: int) -> int:
        threads.append(threading.get_ident())
        return number

    assert await asyncio.gather(*(worker.call(partial(work, number)) for number in range(20))) == list(range(20))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    worker.stop()


async def test_an_error_reaches_the_caller_and_the_thread_goes_on() -> None:
    worker = Worker("test-worker")
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0)
    assert await worker.call(lambda: 7) == 7
    worker.stop()


async def test_a_cancelled_caller_leaves_its_work_to_be_finished() -> None:
    worker = Worker("test-worker")
    gate = threading.Event()
    first = asyncio.create_task(worker.call(gate.wait))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await worker.call(lambda: 7) == 7
    assert first.cancelled()
    worker.stop()


def test_a_loop_that_is_gone_does_not_end_the_thread_in_an_error() -> None:
    gate = threading.Event()
    seen: list[str] = []

    async def start() -> Worker:
        worker = Worker("test-worker")
        worker.submit(gate.wait, lambda result, error: seen.append("never"))
        return worker

    worker = asyncio.run(start())
    gate.set()
    worker.stop()
    assert not seen
