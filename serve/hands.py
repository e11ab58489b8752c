"""Threads for one kind of work, so that what hangs keeps nothing else waiting."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

from serve.problems import busy

Given = ParamSpec("Given")
Result = TypeVar("Result")

N_THREADS: Final = 4
# What may be begun or waiting at a time.
N_AT_A_TIME: Final = 64


@final
class Hands:
    """A few threads of their own; what comes while too much waits for them is refused."""

    def __init__(self, work: str, n_threads: int = N_THREADS, n_at_a_time: int = N_AT_A_TIME) -> None:
        """Args: work: what they do, for the message of a refusal."""
        self._work = work
        self._n_at_a_time = n_at_a_time
        self._n = 0
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix=f"tandem-{work}")

    def begin(self, do: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Future[Result]:
        """Lets a thread do something.

        What is cancelled before it is begun keeps its place until a thread comes to it. So where all threads hang, what
        is held for them is bounded however many give up, and who comes then is refused at once.

        Raises: ProblemError: 503, when too much waits.
        """
        with self._counting:
            if self._n >= self._n_at_a_time:
                raise busy(f"too many requests wait for the {self._work}; try again later")
            self._n += 1
        future: Future[Result] = Future()
        self._threads.submit(self._see_to, future, partial(do, *args, **kwargs))
        return future

    async def do(self, do: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """What a thread returns; whoever is cancelled meanwhile waits no longer, and what was not begun never is.

        Raises: as `begin`, and what it raises.
        """
        return await asyncio.wrap_future(self.begin(do, *args, **kwargs))

    def _see_to(self, future: Future[Result], do: Callable[[], Result]) -> None:
        try:
            if not future.set_running_or_notify_cancel():
                return
            tell = partial(future.set_result, do())
        except BaseException as error:
            tell = partial(future.set_exception, error)
        finally:
            with self._counting:
                self._n -= 1
        tell()
