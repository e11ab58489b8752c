"""Computing a network in bfloat16 where a device does so natively, and what is made of its outputs in float32."""

from typing import Any, final

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rec.config import TrainingConfig
from rec.errors import ConfigError


@final
class InBfloat16:
    """A network under autocast, called as it is itself, whose outputs are float32.

    Products outside of it, such as logits from embeddings, stay in float32: in bfloat16 a logit near 14 is a multiple
    of 1/16.

    Attributes: module: the network.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self._device = device

    def __call__(self, *inputs: Any) -> Any:
        """The network's output, a tensor or a tuple of tensors."""
        with torch.autocast(self._device.type, torch.bfloat16):
            outputs = self.module(*inputs)
        return tuple(each.float() for each in outputs) if isinstance(outputs, tuple) else outputs.float()


def bare(model: Any) -> Any:
    """The network itself, without what computes it in bfloat16 or makes workers share its gradients."""
    while isinstance(model, InBfloat16 | DistributedDataParallel):
        model = model.module
    return model


def uses_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as configured, or where a CUDA device does so natively.

    Raises: ConfigError: when it is asked for and the device cannot.
    """
    able = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    if config.precision == "bfloat16" and not able:
        raise ConfigError(f"device {device} does not compute in bfloat16; use auto or float32", field="precision")
    return config.precision == "bfloat16" or (config.precision == "auto" and able and device.type == "cuda")
