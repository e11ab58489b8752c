"""DRR's networks as RLlib's new API stack holds them."""

from typing import Any, final

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor
from torch.func import functional_call

from rec.models.drr import DRRActor, DRRCritic
from rl.config import DRRTrainConfig

Batch = dict[str, Any]

Q = "q"
NEXT_Q = "next_q"
ACTOR_Q = "actor_q"


@final
class DRRModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """Actor and critic with their targets; `model_config` holds `config` (DRRTrainConfig) and both kinds of vectors.

    Observations and actions are those of rl.pmf_env.RatingRound: ranking vectors with a switch.
    """

    def setup(self) -> None:
        """Builds the networks; called by RLlib."""
        given = self.model_config
        self.settings: DRRTrainConfig = given["config"]
        self.actor = DRRActor(given["user_vectors"], given["item_vectors"], self.settings.network)
        self.critic = DRRCritic(given["user_vectors"], given["item_vectors"], self.settings.network)
        self.action_length = given["item_vectors"].square().sum(dim=1).mean().sqrt()
        self.epsilon = Scheduler(fixed_value_or_schedule=given["epsilon"], framework="torch")

    def get_non_inference_attributes(self) -> list[str]:
        """What sampling sessions does not need."""
        return ["critic", "target_actor", "target_critic"]

    def make_target_networks(self) -> None:
        """Targets start as exact copies."""
        self.target_actor = make_target_network(self.actor)
        self.target_critic = make_target_network(self.critic)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Networks and the targets that follow them."""
        return [(self.actor, self.target_actor), (self.critic, self.target_critic)]

    def forward_target(self, batch: Batch) -> Batch:
        """Q'(s', pi'(s')) of the next observations, (B,), without gradient."""
        user, history = seen(batch[Columns.NEXT_OBS])
        with torch.no_grad():
            action = self._asked(self.target_actor(user, history))
            return {NEXT_Q: self.target_critic(user, history, action)}

    def _forward(self, batch: Batch, **kwargs: Any) -> Batch:
        user, history = seen(batch[Columns.OBS])
        action = self.actor(user, history)
        return {Columns.ACTIONS: torch.cat([action, action.new_zeros(len(action), 1)], dim=1)}

    def _forward_exploration(self, batch: Batch, **kwargs: Any) -> Batch:
        with torch.no_grad():
            action = self._forward(batch)[Columns.ACTIONS]
            if self.settings.exploration == "gaussian":
                noisy = action[:, :-1] + self.settings.noise * torch.randn_like(action[:, :-1])
                action[:, :-1] = noisy.clamp(-1, 1)
            else:
                epsilon = self.epsilon.update(kwargs["t"])
                action[:, -1] = (torch.rand(len(action), device=action.device) < epsilon).to(action.dtype)
        return {Columns.ACTIONS: action}

    def _forward_train(self, batch: Batch, **kwargs: Any) -> Batch:
        """Q(s, a) of what was done, Q(s, pi(s)) with a gradient for the actor alone, and the target; (B,) each."""
        user, history = seen(batch[Columns.OBS])
        none = len(self.actor.state.items) - 1
        done = self._done(batch[Columns.ACTIONS], latest(batch[Columns.NEXT_OBS]["shown"], none))
        fixed = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        asked = self._asked(self.actor(user, history))
        return {
            Q: self.critic(user, history, done),
            ACTOR_Q: functional_call(self.critic, fixed, (user, history, asked)),
            **self.forward_target(batch),
        }

    def _done(self, action: Tensor, item: Tensor) -> Tensor:
        """What the critic reads of a replayed action, (B, k).

        Where a random item was recommended, the ranking vector did not choose it: the item's own vector, scaled to the
        bounds of actions, stands in its place.
        """
        own = self.actor.state.items[item]
        if self.settings.critic_reads == "item":
            return own
        scaled = own / own.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        return torch.where(action[:, -1:] > 0, scaled, action[:, :-1])

    def _asked(self, action: Tensor) -> Tensor:
        """What the critic reads of a ranking vector, (B, k); of the length of an item's where it knows items."""
        if self.settings.critic_reads == "vector":
            return action
        return action * (self.action_length / action.norm(dim=1, keepdim=True).clamp_min(1e-12))


def seen(observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """User (B,) and history (B, n) of observations."""
    return observation["user"].long(), observation["history"].long()


def latest(shown: Tensor, none: int) -> Tensor:
    """The item recommended last, where at least one was, (B, T) -> (B,)."""
    last = (shown != none).sum(dim=1, keepdim=True) - 1
    return shown.gather(1, last.long()).squeeze(1).long()
