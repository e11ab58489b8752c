"""Parts of a table, written by Ray tasks: as many at a time as there are workers, so that memory stays what it is."""

from collections.abc import Iterable, Iterator

import ray
from ray.exceptions import RayError, RayTaskError

from rec.batch.run import Part, PartReport, Task, write_part
from rec.errors import TandemError


def write_parts(task: Task, parts: Iterable[Part], workers: int) -> Iterator[PartReport]:
    """Writes parts, and yields what became of each as it is done. Ray must have been started.

    A task whose process dies is run again by Ray, as its part is the same.

    Raises: TandemError: what a part failed with; or when workers keep dying.
    """
    write = ray.remote(num_cpus=1, max_retries=3)(write_part)
    running: list[ray.ObjectRef] = []
    try:
        for part in parts:
            if len(running) == workers:
                done, running = ray.wait(running)
                yield ray.get(done[0])
            running.append(write.remote(task, part))
            del part
        while running:
            done, running = ray.wait(running)
            yield ray.get(done[0])
    except RayTaskError as error:
        if isinstance(error.cause, TandemError):
            raise error.cause from None
        raise
    except RayError as error:
        raise TandemError(
            f"workers keep dying: {error}; the parts that are written stay, so run again, with smaller "
            "--users-per-part if memory ran out"
        ) from error
    finally:
        for reference in running:
            ray.cancel(reference)
