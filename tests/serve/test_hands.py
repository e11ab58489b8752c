"""Threads for one kind of work: what hangs, and who gives up meanwhile."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from serve.hands import Hands
from serve.problems import ProblemError


def test_results_and_failures_are_told():
    hands = Hands("test", n_threads=1, n_at_a_time=1)

    def fail() -> None:
        raise ValueError("as a test wants it")

    async def ask() -> int:
        with pytest.raises(ValueError, match="as a test wants it"):
            await hands.do(fail)
        return await hands.do(int, "7", base=8)

    assert asyncio.run(ask()) == 7


def test_what_is_given_up_while_all_hangs_is_not_held_without_end(go_on: threading.Event):
    """As many as may wait, whether or not they still do; and none of them is begun once there is a thread again."""
    hands, began = Hands("test", n_threads=1, n_at_a_time=3), list[int]()
    hanging = hands.begin(go_on.wait, 600)
    waiting: list[Future[None]] = []
    for number in range(20):
        try:
            waiting.append(hands.begin(began.append, number))
        except ProblemError as error:
            assert error.status == 503 and error.retry_after_s
        else:
            assert waiting[-1].cancel()
    assert len(waiting) == 2
    go_on.set()
    assert hanging.result(600)

    async def ask() -> None:
        while True:
            try:
                return await hands.do(began.append, 99)
            except ProblemError:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(ask(), 600))
    assert began == [99]


def test_who_no_longer_waits_leaves_what_was_not_begun_undone(go_on: threading.Event):
    hands, began = Hands("test", n_threads=1), list[int]()
    hanging = hands.begin(go_on.wait, 600)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await hands.do(began.append, 1)

    asyncio.run(give_up())
    go_on.set()
    assert hanging.result(600)
    hands.begin(began.append, 2).result(600)
    assert began == [2]
