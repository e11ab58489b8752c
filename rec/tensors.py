"""Arrays as tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor on a device; it shares the array's memory where it can, which is not so for read-only arrays."""
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device, non_blocking=True)
