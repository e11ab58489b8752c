import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from serve.batches import Batches, Part
from serve.json_log import REQUEST_ID


def in_one_part(answer: Callable[[Sequence[int]], Awaitable[Sequence[int]]]) -> Any:
    """All that is asked together, answered together."""

    async def divided(asked: Sequence[int]) -> list[Part[int]]:
        return [(range(len(asked)), answer(asked))]

    return divided


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
        batches = Batches(in_one_part(doubling), 4)
        return await asyncio.gather(*(batches.of(number % 2, number) for number in range(12)))

    assert asyncio.run(ask()) == [2 * number for number in range(12)]
    assert doubling.batches == [[0, 2, 4, 6], [8, 10], [1, 3, 5, 7], [9, 11]]


def test_one_alone_waits_for_nobody():
    doubling = Doubling()

    async def ask() -> list[int]:
        batches = Batches(in_one_part(doubling), 4)
        return [await batches.of("one", number) for number in range(3)]

    assert asyncio.run(ask()) == [0, 2, 4]
    assert doubling.batches == [[0], [1], [2]]


def test_what_a_batch_fails_with_is_said_to_each_in_it_and_to_no_other():
    async def ask() -> list[int | BaseException]:
        batches = Batches(in_one_part(Doubling()), 2)
        return await asyncio.gather(*(batches.of("one", number) for number in (13, 1, 2)), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, ValueError) and isinstance(second, ValueError) and third == 4


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_who_gives_up_changes_nothing_for_the_others(turns: int):
    """Before the batch is begun, when it is, and while it runs."""
    doubling = Doubling()

    async def ask() -> int:
        batches = Batches(in_one_part(doubling), 4)
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
        batches = Batches(in_one_part(answer), 4)
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


def test_who_is_alone_in_a_batch_is_logged_by_its_own_id():
    """And by nothing else of its context: see the test before."""
    whose: ContextVar[str] = ContextVar("whose", default="nobody")
    seen: list[tuple[list[int], str | None, str]] = []

    async def answer(asked: Sequence[int]) -> list[int]:
        seen.append((list(asked), REQUEST_ID.get(), whose.get()))
        return list(asked)

    async def ask() -> None:
        batches = Batches(in_one_part(answer), 2)

        async def one(number: int) -> None:
            REQUEST_ID.set(f"that of {number}")
            whose.set("somebody")
            await batches.of("one", number)

        await asyncio.gather(*(one(number) for number in range(3)))

    asyncio.run(ask())
    assert seen == [([0, 1], None, "nobody"), ([2], "that of 2", "nobody")]


def test_parts_of_a_batch_are_answered_and_fail_each_by_itself():
    """The odd ones are told at once, while the even ones still wait for what then fails them."""
    go_on = asyncio.Event()

    async def fails() -> list[int]:
        await go_on.wait()
        raise ValueError("unlucky")

    async def doubled(asked: Sequence[int]) -> list[int]:
        return [2 * number for number in asked]

    async def divided(asked: Sequence[int]) -> list[Part[int]]:
        even, odd = ([place for place, number in enumerate(asked) if number % 2 == rest] for rest in (0, 1))
        return [(even, fails()), (odd, doubled([asked[place] for place in odd]))]

    async def ask() -> list[BaseException | int]:
        batches = Batches(divided, 8)
        waiting = [asyncio.ensure_future(batches.of("one", number)) for number in range(5)]
        assert await asyncio.wait_for(asyncio.gather(waiting[1], waiting[3]), 30) == [2, 6]
        assert not any(each.done() for each in waiting[::2])
        go_on.set()
        return await asyncio.gather(*waiting[::2], return_exceptions=True)

    found = asyncio.run(ask())
    assert len(found) == 3 and all(isinstance(each, ValueError) for each in found)


def test_parts_end_with_the_last_who_waits():
    ended: list[int] = []

    async def never(number: int) -> list[int]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
        return []

    async def divided(asked: Sequence[int]) -> list[Part[int]]:
        return [([place], never(number)) for place, number in enumerate(asked)]

    async def ask() -> None:
        batches = Batches(divided, 8)
        waiting = [asyncio.ensure_future(batches.of("one", number)) for number in range(2)]
        await asyncio.sleep(0.01)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        while len(ended) < 2:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(ask(), 30))
    assert sorted(ended) == [0, 1]
