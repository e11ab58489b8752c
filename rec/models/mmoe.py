"""A multi-gate mixture of experts.

Source: Ma et al. (2018), doi:10.1145/3219819.3220007.
"""

from torch import Tensor, nn

from rec.config import MMoEConfig
from rec.models.experts import Expert, Gate, Towers, mix


class MMoE(nn.Module):
    """Shared experts, and for each task a gate of its own that mixes them and a tower that reads the mixture.

    Args: n_in: numbers in a row. n_tasks: outputs. config: sizes.
    """

    def __init__(self, n_in: int, n_tasks: int, config: MMoEConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert(n_in, config) for _ in range(config.experts))
        self.gates = nn.ModuleList(Gate(n_in, config.experts, config) for _ in range(n_tasks))
        self.towers = Towers(n_tasks, config)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (B, n_in) to one output a task, (B, T)."""
        experts = [expert(inputs) for expert in self.experts]
        return self.towers([mix(gate(inputs), experts) for gate in self.gates])
