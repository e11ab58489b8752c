"""What generators are to be compared with: the oracle, the ranker over everything, and what needs no training."""

import numpy as np
import torch

from two_stage.evaluation import LIST_LENGTH, N_CANDIDATES, Judge
from two_stage.logged import Logged, World


def bounds_of(world: World, logged: Logged, test: Judge) -> dict[str, dict[str, float]]:
    """Metrics of lists without a generator, by name, on the users of the judge."""
    users = test.users.numpy()
    best = torch.from_numpy(world.simulation.best[users].astype(np.int64))
    policy = torch.from_numpy(world.policy_logits[users])
    liked = logged.log.reward > 0
    clicks = np.bincount(logged.log.action[liked], minlength=world.data.n_items)
    popularity = torch.from_numpy(clicks).float().expand(len(users), -1)
    return {
        "oracle": test.judge(test.unclicked_of(best, LIST_LENGTH)),
        "oracle's top 30 + ranker": test.reranked(test.unclicked_of(best, N_CANDIDATES)),
        "ranker, whole catalogue": test.one_stage(test.ranker_logits),
        "logging policy": test.one_stage(policy),
        "logging policy + ranker": test.two_stage(policy),
        "most clicked": test.one_stage(popularity),
        "most clicked + ranker": test.two_stage(popularity),
    }
