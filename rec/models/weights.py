"""Weights of a network in a safetensors file, never in a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rec.errors import BundleError

DESCRIPTION = "model"


def save_weights(model: nn.Module, file: Path) -> None:
    """Writes all parameters and buffers, on the CPU."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, file)


def save_described(weights: Mapping[str, Tensor], description: Mapping[str, Any], file: Path) -> None:
    """Writes tensors, with what the model is built from beside them in the same file, as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, file, metadata={DESCRIPTION: json.dumps(description)})


def read_description(file: Path) -> dict[str, Any]:
    """What `save_described` wrote beside the tensors.

    Raises: BundleError: when the file is missing, damaged, or has no description.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            description = json.loads((opened.metadata() or {})[DESCRIPTION])
    except FileNotFoundError as error:
        raise BundleError("no such file", file=str(file)) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"does not say what model it is of: {error!r}; train again", file=str(file)) from error
    if not isinstance(description, dict):
        raise BundleError(f"says that its model is {description!r}, which is no mapping; train again", file=str(file))
    return description


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises: BundleError: when the file is missing or no safetensors file.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"not readable as safetensors: {error}", file=str(file)) from error


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], *, file: str | None = None) -> None:
    """Copies weights into a model of the same shape.

    Raises: BundleError: when names or shapes are not the model's, or a number is not finite; the first such is named.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else "nothing"
        wanted = tuple(own[name].shape) if name in own else "nothing"
        if found != wanted:
            raise BundleError(
                f"weights are of another model: at {name} the configured model has {wanted}, the weights {found}",
                file=file,
            )
    require_finite(weights, file=file)
    model.load_state_dict(dict(weights))


def require_finite(weights: Mapping[str, Tensor], *, file: str | None = None) -> None:
    """Refuses weights with which a model could answer nothing.

    Raises: BundleError: naming the first tensor with a number that is not finite.
    """
    for name in sorted(weights):
        n_wrong = int((~weights[name].isfinite()).sum())
        if n_wrong:
            raise BundleError(
                f"{n_wrong} of {weights[name].numel()} numbers of {name} are not finite; train again with a lower "
                "learning rate",
                file=file,
            )


def load_weights(model: nn.Module, file: Path) -> None:
    """Reads a file into a model of the same shape.

    Raises: BundleError: naming the file, when it is damaged or of another model.
    """
    put_weights(model, read_weights(file), file=str(file))
