import asyncio
from collections.abc import Sequence

import pytest

from serve.batches import Batches


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
