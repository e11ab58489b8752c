"""DRR's online evaluation: networks go on learning within a session, and each session starts from those trained."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns

from rec.errors import ConfigError
from rec.models.drr_agent import DRRAgent
from rl.drr_learner import GRADIENT_NORM, actor_loss, critic_loss, td_errors
from rl.drr_module import ACTOR_Q, NEXT_Q, DRRModule, Q
from rl.pmf_env import RatingRound, RatingWorld
from rl.rating_evaluation import Played
from rl.replay import Fields, PrioritizedReplay, Transitions
from rl.training import MODULE_FOLDER


def trained_module(checkpoint: Path, agent: DRRAgent) -> DRRModule:
    """Actor, critic and their targets as a run left them.

    Args: checkpoint: of the run, RLlib's; it holds pickles. agent: of the same run.
    Raises: ConfigError: where there is no checkpoint, or it is of another agent.
    """
    folder = checkpoint / MODULE_FOLDER
    if not folder.is_dir():
        raise ConfigError(
            "holds no checkpoint of an agent; name the folder `checkpoint` of its run", file=str(checkpoint)
        )
    module: Any = DRRModule.from_checkpoint(str(folder))
    # Only a module that has targets takes them.
    module.make_target_networks()
    module.restore_from_path(str(folder))
    trained, saved = module.actor.state_dict(), agent.actor.state_dict()
    if not all(name in trained and torch.equal(weight, trained[name]) for name, weight in saved.items()):
        raise ConfigError("is of another agent; name the checkpoint of the agent's own run", file=str(checkpoint))
    return module


def play_learning(world: RatingWorld, module: DRRModule, users: NDArray[np.integer], seed: int) -> Played:
    """One session of each of these users, one after the other, with an update after every step.

    Before each session networks and targets are as training left them, and the optimizers new. What was played goes
    into a replay that lasts, and updates are those of training: a batch by |TD error|, critic, actor, soft targets.

    Source: Liu et al. (2018), algorithm 3. Differs from it in: actions are the actor's own, without exploration, so
    that the reward is that of what was learnt; the replay holds what the evaluation played, as files of an agent hold
    no replay.

    Args: world: where. module: networks with their targets, which stay as they are. users: (S,). seed: session i has
        the stream seed + i, as with `rl.rating_evaluation.play`.
    """
    settings, learner = module.settings, copy.deepcopy(module)
    trained = copy.deepcopy(learner.state_dict())
    sessions = RatingRound(world, 1, learner.actor.state.items[:-1].numpy(force=True))
    replay = PrioritizedReplay(
        sessions.observation_space,
        sessions.action_space,
        settings.replay_capacity,
        alpha=settings.priority_exponent,
        rng=np.random.default_rng(seed),
    )
    row = np.zeros(1, np.int64)
    shown, rewards = [], np.zeros((len(users), world.config.session_length))
    for place, user in enumerate(np.asarray(users, np.int64)):
        learner.load_state_dict(trained)
        optimizers = new_optimizers(learner)
        sessions.seed(row, np.array([seed + place], np.uint64))
        sessions.start(row)
        sessions.begin(row, user[None])
        step = 0
        while not sessions.done[0]:
            seen = sessions.observe()
            with torch.no_grad():
                action = learner.forward_inference({Columns.OBS: tensors(seen)})[Columns.ACTIONS].numpy()
            outcome = sessions.act(action)
            rewards[place, step] = outcome.reward[0]
            step += 1
            reward = outcome.reward.astype(np.float32)
            replay.add(Transitions(seen, action, reward, sessions.observe(), outcome.done.copy()))
            update(learner, optimizers, replay)
        shown.append(sessions.shown[0].copy())
    users = np.asarray(users, np.int64)
    return Played(users, np.array(shown), rewards, world.lengths[users])


def new_optimizers(module: DRRModule) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Of actor and critic, as training has them."""
    settings = module.settings
    return (
        torch.optim.Adam(module.actor.parameters(), settings.actor_learning_rate),
        torch.optim.Adam(module.critic.parameters(), settings.critic_learning_rate),
    )


def update(module: DRRModule, optimizers: Sequence[torch.optim.Optimizer], replay: PrioritizedReplay) -> None:
    """One batch from the replay for critic, actor and targets, as in training."""
    settings = module.settings
    steps, rows, weights = replay.sample(settings.batch_size, beta=settings.weight_exponent)
    batch = {
        Columns.OBS: tensors(steps.seen),
        Columns.NEXT_OBS: tensors(steps.seen_next),
        Columns.ACTIONS: torch.from_numpy(steps.action),
    }
    out = module.forward_train(batch)
    errors = td_errors(
        out[Q],
        out[NEXT_Q],
        torch.from_numpy(steps.reward),
        torch.from_numpy(steps.terminated),
        torch.ones(len(steps)),
        discount=settings.discount,
    )
    for optimizer in optimizers:
        optimizer.zero_grad()
    (critic_loss(errors, torch.from_numpy(weights)) + actor_loss(out[ACTOR_Q])).backward()
    for network, optimizer in zip((module.actor, module.critic), optimizers, strict=True):
        torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
    with torch.no_grad():
        for network, target in module.get_target_network_pairs():
            for now, followed in zip(target.parameters(), network.parameters(), strict=True):
                now.lerp_(followed, settings.tau)
    replay.update(rows, errors.detach().numpy())


def tensors(seen: Fields) -> dict[str, torch.Tensor]:
    """An observation as networks read it."""
    return {name: torch.as_tensor(values) for name, values in seen.items()}
