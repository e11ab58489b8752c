"""Arrays of a candidate source in one safetensors file: numbers and no code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rec.errors import BundleError


def arrays_file(source: str) -> str:
    """Name of a source's file."""
    return f"{source}.safetensors"


def write_arrays(folder: Path, source: str, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Writes `<source>.safetensors` and returns its name."""
    name = arrays_file(source)
    contiguous = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
    save_file(contiguous, folder / name, metadata={"source": source})
    return [name]


def read_arrays(folder: Path, source: str, *names: str) -> list[NDArray[Any]]:
    """The named arrays of `<source>.safetensors`.

    Raises: BundleError: naming the file, when it is missing, damaged, or of another source.
    """
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
            return [arrays.get_tensor(name) for name in names]
    except FileNotFoundError as error:
        raise BundleError(f"the {source} is not there; save it into this folder first", file=str(file)) from error
    except SafetensorError as error:
        raise BundleError(f"not readable as safetensors: {error}", file=str(file)) from error
