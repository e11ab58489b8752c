"""Values of Open Bandit Pipeline 0.5.5, on inputs kept beside them; run once, in an environment of its own.

    python3.11 -m venv .obp
    .obp/bin/pip install scikit-learn pandas scipy tqdm matplotlib seaborn pyyaml torch
    .obp/bin/pip install --no-deps --ignore-requires-python obp==0.5.5
    .obp/bin/python tests/golden/make_obp_goldens.py

obp 0.5.5 asks for Python below 3.10 and packages of its time; what is used of it here is plain arithmetic and runs with
NumPy 2. Writes tests/golden/obp.npz.
"""

from pathlib import Path

import numpy as np
from obp.dataset import SyntheticBanditDataset, logistic_reward_function
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    DoublyRobustWithShrinkage,
    InverseProbabilityWeighting,
    SelfNormalizedDoublyRobust,
    SelfNormalizedInverseProbabilityWeighting,
    SelfNormalizedSlateIndependentIPS,
    SelfNormalizedSlateRewardInteractionIPS,
    SlateCascadeDoublyRobust,
    SlateIndependentIPS,
    SlateRewardInteractionIPS,
    SwitchDoublyRobust,
)

N, SLATES, K, ITEMS = 200, 80, 3, 4
PARAMETERS = {"clipped_ips": 3.0, "switch_dr": 3.0, "dr_os": 7.0}


def main() -> None:
    """Writes the inputs and what obp makes of them."""
    saved = {**rounds(), **slates(), **generator()}
    np.savez_compressed(Path(__file__).with_name("obp.npz"), **saved)


def rounds() -> dict[str, np.ndarray]:
    """Estimates of a policy from a small synthetic log, with predictions that are no good."""
    data = SyntheticBanditDataset(
        n_actions=6, dim_context=4, beta=-2.0, reward_function=logistic_reward_function, random_state=7
    ).obtain_batch_bandit_feedback(N)
    rng = np.random.default_rng(0)
    action_dist = rng.dirichlet(np.ones(6), N)[:, :, None]
    q_hat = np.clip(data["expected_reward"] + rng.normal(0, 0.2, (N, 6)), 0, 1)[:, :, None]
    given = {
        "reward": data["reward"],
        "action": data["action"],
        "pscore": data["pscore"],
        "action_dist": action_dist,
        "estimated_rewards_by_reg_model": q_hat,
        "position": np.zeros(N, int),
    }
    estimators = {
        "dm": DirectMethod(),
        "ips": InverseProbabilityWeighting(),
        "clipped_ips": InverseProbabilityWeighting(lambda_=PARAMETERS["clipped_ips"]),
        "snips": SelfNormalizedInverseProbabilityWeighting(),
        "dr": DoublyRobust(),
        "sndr": SelfNormalizedDoublyRobust(),
        "switch_dr": SwitchDoublyRobust(lambda_=PARAMETERS["switch_dr"]),
        "dr_os": DoublyRobustWithShrinkage(lambda_=PARAMETERS["dr_os"]),
    }
    values = {f"value_{name}": estimator.estimate_policy_value(**given) for name, estimator in estimators.items()}
    parameters = {f"parameter_{name}": value for name, value in PARAMETERS.items()}
    kept = {f"rounds_{name}": data[name] for name in ("action", "reward", "pscore", "pi_b")}
    return {**values, **parameters, **kept, "rounds_action_dist": action_dist, "rounds_q_hat": q_hat}


def slates() -> dict[str, np.ndarray]:
    """Estimates of a slate policy; each probability is given the items above it, as Tandem logs them."""
    rng = np.random.default_rng(1)
    action = np.argsort(rng.random((SLATES, ITEMS)), axis=1)[:, :K]
    logging, target = rng.uniform(0.1, 0.9, (2, SLATES, K))
    target_dist = rng.dirichlet(np.ones(ITEMS), (SLATES, K))
    np.put_along_axis(target_dist, action[:, :, None], 0.0, axis=2)
    target_dist *= (1 - target[:, :, None]) / target_dist.sum(axis=2, keepdims=True)
    np.put_along_axis(target_dist, action[:, :, None], target[:, :, None], axis=2)
    marginal_logging, marginal_target = rng.uniform(0.1, 0.9, (2, SLATES, K))
    reward, q_hat = rng.normal(size=(SLATES, K)), rng.normal(size=(SLATES, K, ITEMS))
    flat = {
        "slate_id": np.repeat(np.arange(SLATES), K),
        "position": np.tile(np.arange(K), SLATES),
        "reward": reward.reshape(-1),
        "action": action.reshape(-1),
        "pscore_item_position": marginal_logging.reshape(-1),
        "evaluation_policy_pscore_item_position": marginal_target.reshape(-1),
        "pscore_cascade": logging.cumprod(axis=1).reshape(-1),
        "evaluation_policy_pscore_cascade": target.cumprod(axis=1).reshape(-1),
        "q_hat": q_hat.reshape(-1),
        "evaluation_policy_action_dist": target_dist.reshape(-1),
    }
    estimators = {
        "position_wise": SlateIndependentIPS(len_list=K),
        "sn_position_wise": SelfNormalizedSlateIndependentIPS(len_list=K),
        "cascade": SlateRewardInteractionIPS(len_list=K),
        "sn_cascade": SelfNormalizedSlateRewardInteractionIPS(len_list=K),
        "cascade_dr": SlateCascadeDoublyRobust(len_list=K, n_unique_action=ITEMS),
    }
    values = {f"value_{name}": estimator.estimate_policy_value(**flat) for name, estimator in estimators.items()}
    return {
        **values,
        "slates_reward": reward,
        "slates_logging": logging,
        "slates_target": target,
        "slates_marginal_logging": marginal_logging,
        "slates_marginal_target": marginal_target,
        "slates_q_logged": np.take_along_axis(q_hat, action[:, :, None], axis=2)[:, :, 0],
        "slates_q_target": (target_dist * q_hat).sum(axis=2),
    }


def generator() -> dict[str, np.ndarray]:
    """The benchmark's synthetic log: the first rows of training and test part, and a few sums over all."""
    dataset = SyntheticBanditDataset(
        n_actions=10, dim_context=5, beta=-2.0, reward_function=logistic_reward_function, random_state=12345
    )
    saved = {}
    for part in ("train", "test"):
        data = dataset.obtain_batch_bandit_feedback(10_000)
        for name in ("context", "action", "reward", "expected_reward", "pscore"):
            saved[f"{part}_{name}"] = data[name][:5]
            saved[f"{part}_{name}_mean"] = data[name].mean()
    return saved


if __name__ == "__main__":
    main()
