"""What a fit in bfloat16 makes of the outputs of a network."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch

from rec.config import TrainingConfig
from rec.training import Optimizers, TrainingTask, Worker, fit_epoch

CONFIG = TrainingConfig(workers=0, epochs=1, precision="bfloat16")


def assert_only_the_network_is_in_bfloat16(task: TrainingTask) -> None:
    """The loss of a batch in bfloat16 is that of float32 from the same outputs of the network, to the last bit."""
    batch = task.plan(0)[0]
    torch.manual_seed(0)
    model = task.build_model()
    rounding, whole = deepcopy(model).train(), deepcopy(model).train()
    outputs: list[Any] = []
    model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    one: Any = SimpleNamespace(plan=lambda epoch: [batch], loss=task.loss)
    found = fit_epoch(one, model, Optimizers(model, CONFIG), CONFIG, epoch=0, worker=Worker())
    (output,) = outputs
    given = tuple(each.float() for each in output) if isinstance(output, tuple) else output.float()
    rounding.register_forward_hook(lambda _module, _inputs, _output: given)
    assert found == task.loss(rounding, batch, Worker()).item()
    assert found != task.loss(whole, batch, Worker()).item()
