"""What DRR minimises, and its RLlib learner."""

from typing import Any, Final, final

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_LOSS_KEY, QF_MEAN_KEY, TD_ERROR_MEAN_KEY
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TargetNetworkAPI
from ray.rllib.utils.metrics import TD_ERROR_KEY
from torch import Tensor

from rl.drr_module import ACTOR_Q, NEXT_Q, Q

ACTOR_LOSS = "actor_loss"
GRADIENT_NORM: Final = 40
"""At most, of each of actor and critic; RLlib's default for DQN."""


def td_errors(
    q: Tensor, next_q: Tensor, rewards: Tensor, terminated: Tensor, n_steps: Tensor, *, discount: float
) -> Tensor:
    """Y - Q(s, a) with y = r + gamma^n (1 - terminated) Q'(s', pi'(s')), without gradient through y.

    Source: Liu et al. (2018), algorithm 1. Shapes: (B,) all, and the result; r is the discounted sum of n rewards.
    """
    target = rewards + discount**n_steps * (1 - terminated.to(q.dtype)) * next_q
    return target.detach() - q


def critic_loss(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean of w (y - Q)^2, where w corrects for prioritised replay. Shapes: (B,), (B,) -> scalar."""
    return (weights * errors.square()).mean()


def actor_loss(q_of_actor: Tensor) -> Tensor:
    """-mean Q(s, pi(s)): its gradient is that of the deterministic policy gradient. Shapes: (B,) -> scalar.

    Source: Silver et al. (2014), theorem 1; over replayed states, without a correction for their priorities.
    """
    return -q_of_actor.mean()


@final
class DRRLearner(DQNTorchLearner):
    """DQN's learner, with its targets and replay, and the losses and optimizers of DRR."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam for each of actor and critic; the state module of each is among its parameters."""
        assert self._module is not None
        module = self._module[module_id]
        for name, rate in (("actor", config.actor_lr), ("critic", config.critic_lr)):
            parameters = list(getattr(module, name).parameters())
            optimizer = torch.optim.Adam(parameters)
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=parameters,
                lr_or_lr_schedule=rate,
            )

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: dict[str, Tensor]) -> Tensor:
        """The sum of both losses: each has a gradient for its own network alone."""
        errors = td_errors(
            fwd_out[Q],
            fwd_out[NEXT_Q],
            batch[Columns.REWARDS],
            batch[Columns.TERMINATEDS],
            batch["n_step"],
            discount=config.gamma,
        )
        of_critic, of_actor = critic_loss(errors, batch["weights"]), actor_loss(fwd_out[ACTOR_Q])
        priorities = errors.detach().abs()
        self.metrics.log_value((module_id, TD_ERROR_KEY), priorities, reduce="item_series")
        self.metrics.log_dict(
            {
                QF_LOSS_KEY: of_critic,
                QF_MEAN_KEY: fwd_out[Q].mean(),
                ACTOR_LOSS: of_actor,
                TD_ERROR_MEAN_KEY: priorities.mean(),
            },
            key=module_id,
            window=1,
        )
        return of_critic + of_actor

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        """What a module has to offer."""
        return [TargetNetworkAPI]
