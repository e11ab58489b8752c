"""Running a Ray Train trainer so that Ctrl-C and failures arrive as ours."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from ray.exceptions import RayError
from ray.train import Checkpoint, Result, TrainingFailedError, WorkerGroupError

from rec.errors import TandemError, TrainingError
from rec.storage import Place

STOPS: Final = frozenset({signal.SIGINT, signal.SIGTERM})


class Trainer(Protocol):
    """Any trainer of Ray Train."""

    def fit(self) -> Result:
        """Trains until the workers are done."""
        ...


def fit_trainer(trainer: Trainer) -> tuple[Checkpoint, dict[str, Any]]:
    """Runs a trainer to its end.

    Returns: the last checkpoint, and the metrics last reported.
    Raises: KeyboardInterrupt: after Ctrl-C or SIGTERM, whatever Ray made of it. TandemError: what a worker raised, if
        it was one of ours. TrainingError: when training failed otherwise, or left no checkpoint.
    """
    with _own_interrupt_handler(), _signals_seen() as seen:
        try:
            result = trainer.fit()
        # Ray answers Ctrl-C by ending its controller, and may say no more than that it is dead.
        except (SystemExit, RayError, TrainingFailedError) as error:
            if seen() & STOPS:
                raise KeyboardInterrupt from error
            if isinstance(error, SystemExit):
                raise
            raise _reason(error) from error
        if seen() & STOPS:
            raise KeyboardInterrupt
    if result.checkpoint is None:
        raise TrainingError("training ended without a checkpoint; look into the workers' logs of this Ray session")
    return result.checkpoint, result.metrics or {}


def kept_in(folder: Path, place: Place | None) -> dict[str, Any]:
    """Where a run keeps its checkpoints, as `ray.train.RunConfig` takes it: the place, if there is one, or a folder."""
    if place is None:
        return {"storage_path": str(folder)}
    return {"storage_path": place.path, "storage_filesystem": place.filesystem}


def _reason(error: Exception) -> TandemError:
    """What made training fail, as far as a worker said so."""
    if not isinstance(error, WorkerGroupError):
        return TrainingError(f"Ray Train could not go on: {error}; see the logs of this Ray session")
    for rank, failure in sorted(error.worker_failures.items()):
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, TandemError):
                return cause
            cause = cause.__cause__ or getattr(cause, "cause", None)
        return TrainingError(
            f"worker {rank} failed and training.max_failures was reached: {failure}; see the workers' logs"
        )
    return TrainingError(f"the workers failed: {error}")


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Restores what happens on Ctrl-C: Ray Train installs a handler of its own and leaves it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _signals_seen() -> Iterator[Callable[[], set[int]]]:
    """Tells which signals this process received, whoever handles them; none outside the main thread."""
    seen: set[int] = set()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: seen
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def look() -> set[int]:
        try:
            seen.update(os.read(reading, 4096))
        except BlockingIOError:
            pass
        return seen

    try:
        yield look
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
