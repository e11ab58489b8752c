"""What is asked at the same time is answered together, as stages take less time for each of several users."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar, final

from serve.problems import busy

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@final
class Batches(Generic[Asked, Answer]):
    """Calls that are alike and wait for the event loop at the same time, in one.

    Nobody waits for others to come: what is asked while the loop is busy is what its next turn finds. A batch belongs
    to none of those who ask: it goes on without who gives up, in no one's context, and ends when the last one has.

    Args: answer: of several, in their order. most: how many together.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]], most: int) -> None:
        self._answer = answer
        self._most = most
        self._waiting: dict[Hashable, list[tuple[Asked, asyncio.Future[Answer]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def of(self, kind: Hashable, asked: Asked) -> Answer:
        """The answer to one, found with others of its kind.

        Raises: whatever answering them raises, for each of them.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        waiting = self._waiting.setdefault(kind, [])
        waiting.append((asked, future))
        if len(waiting) == 1:
            loop.call_soon(self._start, kind, context=Context())
        return await future

    def _start(self, kind: Hashable) -> None:
        waiting = [(asked, future) for asked, future in self._waiting.pop(kind) if not future.done()]
        for first in range(0, len(waiting), self._most):
            batch = waiting[first : first + self._most]
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            for _, future in batch:
                future.add_done_callback(partial(_end_unless_awaited, task, batch))

    async def _run(self, waiting: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._answer([asked for asked, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                for _, future in waiting:
                    future.cancel()
                raise
            # A call that somebody else has ended, as Serve does: they did not give up.
            for _, future in waiting:
                if not future.done():
                    future.set_exception(busy("the answer was cut off; send the request again"))
        else:
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _end_unless_awaited(
    task: asyncio.Task[None], batch: Sequence[tuple[Any, asyncio.Future[Any]]], _: asyncio.Future[Any]
) -> None:
    if all(future.done() for _, future in batch):
        task.cancel()
