import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from serve.batches import Batches
from serve.problems import ProblemError


class Doubling:
    """Doubles numbers, and refuses batches that hold 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, asked: Sequence[int]) -> list[int]:
        self.batches.append(list(asked))
        await asyncio.sleep(0)
        if 13 in asked:
            raise ValueError("unlucky")
        return [2 * number for number in asked]


def test_what_waits_together_is_answered_together_by_kind_and_size():
    doubling = Doubling()

    async def ask() -> list[int]:
        batches = Batches(doubling, 4)
        return await asyncio.gather(*(batches.of(number % 2, number) for number in range(12)))

    assert asyncio.run(ask()) == [2 * number for number in range(12)]
    assert doubling.batches == [[0, 2, 4, 6], [8, 10], [1, 3, 5, 7], [9, 11]]


def test_one_alone_waits_for_nobody():
    doubling = Doubling()

    async def ask() -> list[int]:
        batches = Batches(doubling, 4)
        return [await batches.of("one", number) for number in range(3)]

    assert asyncio.run(ask()) == [0, 2, 4]
    assert doubling.batches == [[0], [1], [2]]


def test_what_a_batch_fails_with_is_said_to_each_in_it_and_to_no_other():
    async def ask() -> list[int | BaseException]:
        batches = Batches(Doubling(), 2)
        return await asyncio.gather(*(batches.of("one", number) for number in (13, 1, 2)), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, ValueError) and isinstance(second, ValueError) and third == 4


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_who_gives_up_changes_nothing_for_the_others(turns: int):
    """Before the batch is begun, when it is, and while it runs."""
    doubling = Doubling()

    async def ask() -> int:
        batches = Batches(doubling, 4)
        gone, stays = (asyncio.ensure_future(batches.of("one", number)) for number in (5, 6))
        for _ in range(turns):
            await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(ask()) == 12
    assert 6 in doubling.batches[-1] and len(doubling.batches) == 1


def test_a_batch_is_in_nobodys_context_and_ends_with_the_last_who_waits():
    """As Serve ends the calls of the request in whose context they are made, when its client hangs up."""
    whose: ContextVar[str] = ContextVar("whose", default="nobody")
    seen, ended = [], asyncio.Event()

    async def answer(asked: Sequence[int]) -> list[int]:
        seen.append(whose.get())
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return list(asked)

    async def ask() -> None:
        whose.set("the first")
        batches = Batches(answer, 4)
        waiting = [asyncio.ensure_future(batches.of("one", number)) for number in range(3)]
        while not seen:
            await asyncio.sleep(0)
        for each in waiting[:2]:
            each.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not ended.is_set() and not waiting[2].done()
        waiting[2].cancel()
        await asyncio.wait_for(ended.wait(), 30)

    asyncio.run(ask())
    assert seen == ["nobody"]


def test_a_call_that_another_ends_is_no_cancellation_of_who_waits():
    async def answer(asked: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    async def ask() -> list[int | BaseException]:
        batches = Batches(answer, 4)
        return await asyncio.gather(*(batches.of("one", number) for number in range(2)), return_exceptions=True)

    found = asyncio.run(ask())
    assert all(isinstance(each, ProblemError) and each.retry_after_s for each in found) and len(found) == 2
