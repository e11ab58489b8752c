"""Progressive layered extraction: experts of all tasks and of each task's own, mixed level by level.

Source: Tang et al. (2020), doi:10.1145/3383313.3412236, section 4.2.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from rec.config import PLEConfig
from rec.models.experts import Expert, Gate, Towers, mix


class ExtractionLevel(nn.Module):
    """One level: task k mixes its own experts and the shared ones; the shared part mixes the experts of all.

    g_k = sum of softmax(W_k x_k) over the outputs of [experts of k at x_k, shared experts at x_s], and
    g_s = sum of softmax(W_s x_s) over those of [experts of every task at its own x, shared experts at x_s].

    Args: n_in: numbers in a row of any part. n_tasks: parts beside the shared one. last: whether no level follows, so
        that nobody reads the shared part and it has no gate.
    """

    def __init__(self, n_in: int, n_tasks: int, config: PLEConfig, *, last: bool) -> None:
        super().__init__()
        self.shared = nn.ModuleList(Expert(n_in, config) for _ in range(config.shared_experts))
        self.of_tasks = nn.ModuleList(
            nn.ModuleList(Expert(n_in, config) for _ in range(config.task_experts)) for _ in range(n_tasks)
        )
        n_seen = config.task_experts + config.shared_experts
        self.gates = nn.ModuleList(Gate(n_in, n_seen, config) for _ in range(n_tasks))
        n_all = n_tasks * config.task_experts + config.shared_experts
        self.shared_gate = None if last else Gate(n_in, n_all, config)

    def forward(self, tasks: Sequence[Tensor], shared: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each task and the shared part have extracted so far, (B, n_in) each, to the same, (B, D) each."""
        common = [expert(shared) for expert in self.shared]
        own = [
            [expert(inputs) for expert in experts]  # pyright: ignore[reportGeneralTypeIssues]
            for inputs, experts in zip(tasks, self.of_tasks, strict=True)
        ]
        mixed = [
            mix(gate(inputs), [*experts, *common]) for inputs, experts, gate in zip(tasks, own, self.gates, strict=True)
        ]
        if self.shared_gate is None:
            return mixed, shared
        return mixed, mix(self.shared_gate(shared), [*(output for experts in own for output in experts), *common])


class PLE(nn.Module):
    """Levels of extraction, then a tower for each task.

    Args: n_in: numbers in a row. n_tasks: outputs. config: sizes.
    """

    def __init__(self, n_in: int, n_tasks: int, config: PLEConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            ExtractionLevel(config.expert_dim if level else n_in, n_tasks, config, last=level == config.levels - 1)
            for level in range(config.levels)
        )
        self.n_tasks = n_tasks
        self.towers = Towers(n_tasks, config)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (B, n_in) to one output a task, (B, T)."""
        tasks, shared = [inputs] * self.n_tasks, inputs
        for level in self.levels:
            tasks, shared = level(tasks, shared)
        return self.towers(tasks)
