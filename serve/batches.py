"""What is asked at the same time is answered together, as stages take less time for each of several users."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar, final

from serve.json_log import REQUEST_ID

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
# The places of some of those who asked, and how their answers are found, in the same order.
Part = tuple[Sequence[int], Awaitable[Sequence[Answer]]]


@final
class Batches(Generic[Asked, Answer]):
    """Calls that are alike and wait for the event loop at the same time, in one.

    Nobody waits for others to come: what is asked while the loop is busy is what its next turn finds. A batch belongs
    to none of those who ask: it goes on without who gives up, in no one's context, and ends when the last one has. What
    is logged of one that is alone has the id of its request.

    Args: divide: what several ask into parts that are answered beside each other, each as soon as it is, or fails, by
        itself. most: how many together.
    """

    def __init__(self, divide: Callable[[Sequence[Asked]], Awaitable[Sequence[Part[Answer]]]], most: int) -> None:
        self._divide = divide
        self._most = most
        self._waiting: dict[Hashable, list[tuple[Asked, asyncio.Future[Answer], str | None]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def of(self, kind: Hashable, asked: Asked) -> Answer:
        """The answer to one, found with others of its kind.

        Raises: whatever dividing them raises, or answering its part, for each in it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        waiting = self._waiting.setdefault(kind, [])
        waiting.append((asked, future, REQUEST_ID.get()))
        if len(waiting) == 1:
            loop.call_soon(self._start, kind)
        return await future

    def _start(self, kind: Hashable) -> None:
        waiting = [each for each in self._waiting.pop(kind) if not each[1].done()]
        for first in range(0, len(waiting), self._most):
            together = waiting[first : first + self._most]
            batch = [(asked, future) for asked, future, _ in together]
            context = Context()  # or Serve would end what all wait for with the request of one
            if len(together) == 1:
                context.run(REQUEST_ID.set, together[0][2])
            task = asyncio.create_task(self._run(batch), context=context)
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            for _, future in batch:
                future.add_done_callback(partial(_end_unless_awaited, task, batch))

    async def _run(self, waiting: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        futures = [future for _, future in waiting]
        with _failing(futures):
            parts = await self._divide([asked for asked, _ in waiting])
            answering = [_tell([futures[place] for place in places], answers) for places, answers in parts]
            if len(answering) == 1:
                await answering[0]
            else:
                await asyncio.gather(*answering)


async def _tell(futures: Sequence[asyncio.Future[Answer]], answers: Awaitable[Sequence[Answer]]) -> None:
    with _failing(futures):
        for future, answer in zip(futures, await answers, strict=True):
            if not future.done():
                future.set_result(answer)


@contextmanager
def _failing(futures: Sequence[asyncio.Future[Any]]) -> Iterator[None]:
    """Lets futures fail with what is raised inside."""
    try:
        yield
    except Exception as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise


def _end_unless_awaited(
    task: asyncio.Task[None], batch: Sequence[tuple[Any, asyncio.Future[Any]]], _: asyncio.Future[Any]
) -> None:
    if all(future.done() for _, future in batch):
        task.cancel()
