"""Run by test_registry: kills a registry's writer at each of its writes, and checks what it leaves behind.

Prints the number of kills. A process of its own, because it forks.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rec.bundle import BundleDetails
from rec.registry import Registry
from rec.storage import Home

DETAILS = BundleDetails(config={}, seed=0, schema_sha256="5" * 64)
WRITES = ("fsync", "replace", "rename", "mkdir")


def fill(folder: Path) -> None:
    (folder / "retriever.safetensors").write_bytes(b"weights")
    (folder / "encoders.json").write_bytes(b"{}")


def dies_at(call: int, action: Callable[[], object], writes: Sequence[str] = WRITES) -> bool:
    """Whether a child that runs the action was killed, before its call-th write by one of these functions of `os`."""
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def wrapper(*args: object, **kwargs: object) -> object:
                if next(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return wrapper

        for name in writes:
            setattr(os, name, deadly(getattr(os, name)))
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed by itself at call {call}"
    return os.WIFSIGNALED(status)


def main(root: Path) -> int:
    kills = 0
    for number in itertools.count():
        registry = Registry(Home(root / f"publish-{number}"))
        first = registry.publish(fill, DETAILS)
        registry.promote(first)
        died = dies_at(number, lambda registry=registry: registry.publish(fill, DETAILS))
        assert registry.open().version == first
        for version in registry.versions():
            registry.open(version)
        assert registry.publish(fill, DETAILS) == registry.versions()[-1]
        left = [path.name for path in registry._workspace.iterdir() if path.name.startswith(".")]
        assert left == [".lock"], left
        kills += died
        if not died:
            break
    for number in itertools.count():
        registry = Registry(Home(root / f"promote-{number}"))
        a, b, c = (registry.publish(fill, DETAILS) for _ in range(3))
        registry.promote(a)
        registry.promote(b)
        died = dies_at(number, lambda registry=registry, c=c: registry.promote(c))
        assert registry.open().version in ({b, c} if died else {c})
        expected = [b, a] if registry.current() == c else [a]
        assert [registry.rollback() for _ in expected] == expected
        kills += died
        if not died:
            break
    for number in itertools.count():
        registry = Registry(Home(root / f"rollback-{number}"))
        a, b, c = (registry.publish(fill, DETAILS) for _ in range(3))
        for version in (a, b, c):
            registry.promote(version)
        died = dies_at(number, registry.rollback)
        assert registry.open().version in ({b, c} if died else {b})
        expected = [b, a] if registry.current() == c else [a]
        assert [registry.rollback() for _ in expected] == expected
        kills += died
        if not died:
            break
    return kills


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
