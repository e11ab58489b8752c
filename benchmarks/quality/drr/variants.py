"""How agents are trained, what they stand beside, and what is measured."""

from dataclasses import dataclass, field
from typing import Any, Final, final

from rl.config import PMFConfig, SimulatorFamily

Simulator = tuple[SimulatorFamily, float]
"""Which family predicts what is not known, and the noise of its predictions in stars."""


@final
@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes: settings: of DRRTrainConfig. steps: played. dim: of the factors whose vectors the networks read. logged:
        whether it learns from logged sessions, in the place of the simulator.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 96_000
    dim: int = PMFConfig().dim
    logged: bool = False


LOGGED: Final = "logged"
VARIANTS: Final[dict[str, Variant]] = {
    "paper": Variant({"sessions": 1, "training_intensity": 64.0, "steps_per_report": 8_000}, dim=100),
    "vector": Variant(),
    "item": Variant({"critic_reads": "item", "discount": 0.0}),
    "user": Variant({"critic_reads": "item", "discount": 0.0, "network": {"start": "user"}}),
    LOGGED: Variant(
        {
            "critic_reads": "item",
            "discount": 0.0,
            "actor_learning_rate": 1e-3,
            "final_epsilon": 1.0,
            "network": {"start": "user", "correction": "weights"},
        },
        steps=32_000,
        logged=True,
    ),
}

POPULARITY: Final = "popularity"
ITEM_MEAN: Final = "item mean"
MODEL: Final = "matrix factorisation"
UNTRAINED: Final = "untrained"
CORRECTED: Final = "best linear correction"
NEIGHBORS: Final = "neighbors"
POLICIES: Final = ("random", POPULARITY, ITEM_MEAN, MODEL, UNTRAINED, "oracle", CORRECTED, NEIGHBORS)
BESIDE: Final = (POPULARITY, ITEM_MEAN, MODEL, UNTRAINED, CORRECTED, NEIGHBORS)
"""Of the policies, those that agents are compared with."""

ONLINE: Final = "online_reward"
LEARNING: Final = "online_reward_learning"
AS_TRAINED: Final = "as trained"
SIMULATORS: Final[tuple[Simulator, ...]] = (
    ("factorisation", 0.5),
    ("factorisation", 1.0),
    ("neighbors", 0.0),
    ("neighbors", 0.5),
    ("neighbors", 1.0),
)


def online_in(simulator: Simulator) -> str:
    """The metric of online sessions in another simulator than that of `ONLINE`."""
    family, noise = simulator
    return f"{ONLINE} in {family}, noise {noise:g}"
