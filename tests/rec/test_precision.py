import pytest
import torch
from torch import nn

from rec.config import TrainingConfig
from rec.errors import ConfigError
from rec.precision import InBfloat16, bare, uses_bfloat16

CONFIG = TrainingConfig()


def test_bfloat16_is_used_where_it_is_native_or_asked_for():
    cpu = torch.device("cpu")
    assert not uses_bfloat16(CONFIG, cpu)
    assert uses_bfloat16(CONFIG.model_copy(update={"precision": "bfloat16"}), cpu)
    with pytest.raises(ConfigError, match="does not compute in bfloat16"):
        uses_bfloat16(CONFIG.model_copy(update={"precision": "bfloat16"}), torch.device("meta"))


def test_a_network_in_bfloat16_rounds_and_what_comes_after_it_does_not():
    torch.manual_seed(0)
    network, x = nn.Linear(64, 64), torch.rand(8, 64)
    inside = InBfloat16(network, torch.device("cpu"))
    rounded = inside(x)
    assert rounded.dtype == torch.float32 and torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded @ rounded.T, (rounded @ rounded.T).bfloat16().float())
    assert bare(inside) is network and bare(network) is network
