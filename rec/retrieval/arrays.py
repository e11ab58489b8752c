"""Arrays of a candidate source in one safetensors file: numbers and no code."""

import json
import mmap
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rec.errors import BundleError

# What safetensors calls the kinds of numbers that are mapped.
_KINDS: Final = {"BOOL": "?", "I32": "<i4", "I64": "<i8", "F64": "<f8"}


def arrays_file(source: str) -> str:
    """Name of a source's file."""
    return f"{source}.safetensors"


def write_arrays(folder: Path, source: str, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Writes `<source>.safetensors` and returns its name."""
    name = arrays_file(source)
    contiguous = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
    save_file(contiguous, folder / name, metadata={"source": source})
    return [name]


def read_arrays(folder: Path, source: str, *names: str, mapped: Collection[str] = ()) -> list[NDArray[Any]]:
    """The named arrays of `<source>.safetensors`.

    Args: mapped: which of them stay on the disk and are read where and when they are looked at; see `forget`.
    Raises: BundleError: naming the file, when it is missing, damaged, or of another source.
    """
    file = folder / arrays_file(source)
    with _opened(folder, source, names) as arrays, file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        return [
            _mapped(file, 8 + length, header[name]) if name in mapped else arrays.get_tensor(name) for name in names
        ]


def forget(*arrays: NDArray[Any]) -> None:
    """Takes out of this process what it has read of mapped arrays; others stay as they are.

    A process that goes through all users would otherwise hold all of the file in the end. What is looked at again comes
    from the system's cache of the file, which all processes share, or from the disk.
    """
    for array in arrays:
        if isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)


def _mapped(file: Path, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    kind, shape = np.dtype(_KINDS[entry["dtype"]]), tuple(entry["shape"])
    if 0 in shape:
        return np.zeros(shape, kind)
    return np.memmap(file, kind, "r", start + entry["data_offsets"][0], shape)


@contextmanager
def _opened(folder: Path, source: str, names: Sequence[str]) -> Iterator[Any]:
    """The file of a source, which has been looked at: it is whole, of this source, and holds these arrays."""
    file = folder / arrays_file(source)
    try:
        with safe_open(file, "numpy") as arrays:
            found = (arrays.metadata() or {}).get("source")
            if found != source or set(arrays.keys()) != set(names):
                raise BundleError(
                    f"not a {source}: it is a {found} holding {', '.join(sorted(arrays.keys()))}; save it again with "
                    f"this version, which writes {', '.join(sorted(names))}",
                    file=str(file),
                )
            yield arrays
    except FileNotFoundError as error:
        raise BundleError(f"the {source} is not there; save it into this folder first", file=str(file)) from error
    except SafetensorError as error:
        raise BundleError(f"not readable as safetensors: {error}", file=str(file)) from error
