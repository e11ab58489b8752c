"""`tandem rl`: agents of `rl`, which is imported only when one of them is asked for."""

from typing import TYPE_CHECKING

from rec.cli.command import Answer
from rec.config import Config

if TYPE_CHECKING:
    from rl.cli import EvaluateAgentOptions, TrainDQNOptions
    from rl.rating_cli import EvaluateDRROptions, TrainDRROptions


def train_dqn_options() -> type[Config]:
    """Options of `run_train_dqn`."""
    from rl.cli import TrainDQNOptions

    return TrainDQNOptions


def run_train_dqn(options: "TrainDQNOptions") -> Answer:
    """Trains an agent of sessions."""
    from rl.cli import train_dqn

    return train_dqn(options)


def evaluate_agent_options() -> type[Config]:
    """Options of `run_evaluate_agent`."""
    from rl.cli import EvaluateAgentOptions

    return EvaluateAgentOptions


def run_evaluate_agent(options: "EvaluateAgentOptions") -> Answer:
    """Plays sessions."""
    from rl.cli import evaluate_agent

    return evaluate_agent(options)


def train_drr_options() -> type[Config]:
    """Options of `run_train_drr`."""
    from rl.rating_cli import TrainDRROptions

    return TrainDRROptions


def run_train_drr(options: "TrainDRROptions") -> Answer:
    """Trains an agent of ratings."""
    from rl.rating_cli import train_drr

    return train_drr(options)


def evaluate_drr_options() -> type[Config]:
    """Options of `run_evaluate_drr`."""
    from rl.rating_cli import EvaluateDRROptions

    return EvaluateDRROptions


def run_evaluate_drr(options: "EvaluateDRROptions") -> Answer:
    """Reranks logged sessions and plays simulated ones."""
    from rl.rating_cli import evaluate_drr

    return evaluate_drr(options)
