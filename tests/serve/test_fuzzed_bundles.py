"""Bundles that were damaged in any way: none is loaded, and each is refused by name of a file, before it is parsed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rec.bundle import MANIFEST
from rec.errors import BundleError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home

Damage = Callable[[bytes, np.random.Generator], bytes | None]


def flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def extend(content: bytes, rng: np.random.Generator) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 9)))


def move_block(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return content[end:] + content[start:end] + content[:start]


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(len(content))


def remove(_content: bytes, _rng: np.random.Generator) -> None:
    return None


DAMAGES: tuple[Damage, ...] = (flip_bit, cut, extend, move_block, noise, remove)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_never_loaded(home: str, tmp_path: Path, damage: Damage):
    bundle = Registry(Home(home)).open()
    files = [MANIFEST, *bundle.manifest.files]
    rng = np.random.default_rng(0)
    n_damaged = 0
    for number in range(4 * len(files)):
        name = files[number % len(files)]
        content = (bundle.folder / name).read_bytes()
        damaged = damage(content, rng)
        if damaged == content:
            continue
        n_damaged += 1
        folder = tmp_path / str(number) / "models" / bundle.version
        folder.mkdir(parents=True)
        for other in files:
            if other != name:
                os.link(bundle.folder / other, folder / other)
        if damaged is not None:
            (folder / name).write_bytes(damaged)
        with pytest.raises(BundleError, match=name.replace(".", r"\.")):
            Recommender.load(tmp_path / str(number), bundle.version)
    assert n_damaged >= 3 * len(files)


def test_files_that_changed_places_are_never_loaded(home: str, tmp_path: Path):
    """Each is whole, and none is where it should be."""
    bundle = Registry(Home(home)).open()
    files = list(bundle.manifest.files)
    for number, (one, other) in enumerate(zip(files, files[1:] + files[:1], strict=True)):
        folder = tmp_path / str(number) / "models" / bundle.version
        folder.mkdir(parents=True)
        for name in [MANIFEST, *files]:
            os.link(bundle.folder / {one: other, other: one}.get(name, name), folder / name)
        with pytest.raises(BundleError, match="damaged"):
            Recommender.load(tmp_path / str(number), bundle.version)
