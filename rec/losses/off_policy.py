"""Learning one policy from what another one showed: losses of logged actions, their rewards and propensities.

The policy is p = softmax(logits) over the catalogue. Every loss takes one row per logged action: B rows, N items.
With `total`, a sum over all workers, it returns this worker's part: the mean of the parts is the loss of the global
batch. Propensities are the logging policy's, in (0, 1]; SupportError names the first that is not.
"""

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional

from rec.losses.logged import (
    NormalizeOver,
    Weighting,
    at_columns,
    batch_mean,
    check_actions,
    check_choice,
    check_shape,
    checked_rewards,
    finite_rows,
    in_float,
    log_probability,
    refuse,
)
from rec.weights import Total, importance_weights, self_normalized

ErrorName = Literal["squared", "logistic"]


def reward_errors(predicted: Tensor, rewards: Tensor, error: ErrorName) -> Tensor:
    """Errors of predicted rewards, (B,) all: (r - logit)^2, or the cross-entropy of r and sigmoid(logit)."""
    if error == "squared":
        return (rewards - predicted) ** 2
    return functional.binary_cross_entropy_with_logits(predicted, rewards, reduction="none")


def regression(
    logits: Tensor,
    actions: Tensor,
    rewards: Tensor,
    *,
    error: ErrorName = "squared",
    total: Total | None = None,
) -> Tensor:
    """The error of the logged action's predicted reward; the policy then shows what is predicted highest.

    `squared`: (r - logit)^2. `logistic`: cross-entropy of r and sigmoid(logit), for rewards from 0 to 1.

    Args: logits: predictions, (B, N). actions: logged items, (B,). rewards: (B,). error: which. total: over workers.
    Returns: mean error, scalar.
    Raises: ValueError: for shapes or values out of range, naming the first row.
    """
    check_choice("error", error, ErrorName)
    check_actions(logits, actions)
    predicted = at_columns(in_float(logits), actions)
    rewards = checked_rewards(rewards, predicted)
    if error == "logistic":
        outside = (rewards < 0) | (rewards > 1)
        refuse(outside, "the logistic error needs rewards from 0 to 1; take the squared", rewards)
    return batch_mean(reward_errors(predicted, rewards, error), total)


def ips(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    *,
    rewards: Tensor | None = None,
    min_weight: float = 0.01,
    max_weight: float = 10.0,
    self_normalize: bool = True,
    normalize_over: NormalizeOver = "clicked",
    total: Total | None = None,
) -> Tensor:
    """Policy gradient weighted by inverse propensities: -mean of r sg(w) log p(a), w = p(a) / propensity.

    Without clipping and self-normalisation its gradient is that of -mean of r p(a) / propensity, without bias.
    Source: Ma et al. (2020), doi:10.1145/3366423.3380130.

    Args: logits: scores divided by the policy's temperature, (B, N). actions: logged items, (B,). propensities: (B,).
        rewards: (B,); 1 by default. min_weight, max_weight: range of w. self_normalize: divide w by its mean, over
        the rows whose reward is not 0, or over all (`normalize_over`). total: over workers.
    Returns: scalar.
    Raises: ValueError: for shapes or values out of range, naming the first row; for a negative reward with
        min_weight > 0, whose loss falls for ever as p(a) does.
    """
    check_actions(logits, actions)
    log_p = log_probability(in_float(logits), actions)
    rewards = checked_rewards(rewards, log_p)
    weighting = Weighting(min_weight, max_weight, self_normalize, normalize_over, total)
    weights = weighting.weights(log_p.detach().exp(), propensities, rewards)
    return -batch_mean(rewards * weights * log_p, total)


def dr(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    rewards: Tensor,
    q_hat: Tensor,
    *,
    max_weight: float = math.inf,
    self_normalize: bool = False,
    total: Total | None = None,
) -> Tensor:
    """Doubly robust policy gradient: -mean of sg(w) (r - q_hat(a)) log p(a) + the sum over items of p q_hat.

    Unbiased when either the propensities or q_hat are right. q_hat must not have seen the row's own user
    (`rec.crossfit`). There is no floor under the weights: residuals are negative as often as not.
    Source: Dudik et al. (2011), arXiv:1103.4601, whose estimate is differentiated here.

    Args: as of `ips`; q_hat: predicted rewards of all items, constant, (B, N). self_normalize: over all rows.
    Returns: scalar; its gradient is minus that of the estimated value.
    Raises: as `ips`.
    """
    check_actions(logits, actions)
    check_shape("q_hat", q_hat, *logits.shape)
    refuse(~finite_rows(q_hat), "predicted rewards must be finite", q_hat.sum(dim=1))
    log_p = in_float(logits).log_softmax(dim=1)
    log_p_action = at_columns(log_p, actions)
    q_hat = q_hat.detach().to(log_p.dtype)
    residuals = checked_rewards(rewards, log_p_action) - at_columns(q_hat, actions)
    check_shape("propensities", propensities, len(logits))
    target_p = log_p_action.detach().exp()
    weights = importance_weights(target_p, propensities.to(log_p.dtype), max_weight=max_weight)
    if self_normalize:
        weights = self_normalized(weights, total=total)
    return -batch_mean(weights * residuals * log_p_action + (log_p.exp() * q_hat).sum(dim=1), total)


def weighted_log_likelihood(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor | None = None,
    *,
    rewards: Tensor | None = None,
    n_eligible: Tensor | None = None,
    max_weight: float = math.inf,
    self_normalize: bool = False,
    normalize_over: NormalizeOver = "clicked",
    total: Total | None = None,
) -> Tensor:
    """Likelihood of the logged actions, weighted by constants: -mean of r w log p(a), w = (1 / |E|) / propensity.

    E is what could have been shown, so w is the weight of the policy that shows all of it alike, and has the mean 1.
    Unlike in `ips`, the weight does not move with the policy, so the loss is convex in the logits. Its optimum shows
    items in proportion to their rewards; without propensities, w = 1, in proportion to reward times propensity.
    Source: Aouali and Sakhi (2025), arXiv:2509.03456; without propensities, reward-weighted regression of
    Peters and Schaal (2007), doi:10.1145/1273496.1273590.

    Args: as of `ips`; propensities: (B,), or None. n_eligible: |E| of each row, (B,); by default all N items.
        max_weight: cap on w.
    Returns: scalar.
    Raises: as `ips`; ValueError: for any negative reward, which no p(a) > 0 satisfies.
    """
    check_actions(logits, actions)
    log_p = log_probability(in_float(logits), actions)
    rewards = checked_rewards(rewards, log_p)
    refuse(rewards < 0, "a likelihood needs rewards of at least 0; add a constant, or take ips or dr", rewards)
    if propensities is None:
        return -batch_mean(rewards * log_p, total)
    weighting = Weighting(0.0, max_weight, self_normalize, normalize_over, total)
    if n_eligible is None:
        n_eligible = actions.new_full(actions.shape, logits.shape[1])
    check_shape("n_eligible", n_eligible, len(logits))
    refuse(n_eligible < 1, "n_eligible counts the item that was shown, too, so it is at least 1", n_eligible)
    weights = weighting.weights(1 / n_eligible.to(log_p.dtype), propensities, rewards)
    return -batch_mean(rewards * weights * log_p, total)


def top_k_reinforce(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    *,
    rewards: Tensor | None = None,
    slate_size: int = 30,
    min_weight: float = 0.01,
    max_weight: float = 10.0,
    self_normalize: bool = True,
    normalize_over: NormalizeOver = "clicked",
    total: Total | None = None,
) -> Tensor:
    """Policy gradient for K items drawn from p: -mean of r sg(w lambda_K) log p(a), lambda_K = K (1 - p(a))^(K - 1).

    Without clipping and self-normalisation its gradient is that of -mean of r (1 - (1 - p(a))^K) / propensity: the
    policy is to have a among its K draws. K = 1 is `ips`.
    Source: Chen et al. (2019), section 4.3, doi:10.1145/3289600.3290999.

    Args: as of `ips`; slate_size: K, at least 1. The cap and the mean are of w alone, without lambda_K.
    Returns: scalar.
    Raises: as `ips`.
    """
    if slate_size < 1 or slate_size % 1:
        raise ValueError(f"slate_size must be a whole number, at least 1; found {slate_size}")
    check_actions(logits, actions)
    log_p = log_probability(in_float(logits), actions)
    rewards = checked_rewards(rewards, log_p)
    p = log_p.detach().exp()
    weighting = Weighting(min_weight, max_weight, self_normalize, normalize_over, total)
    weights = weighting.weights(p, propensities, rewards)
    gain = slate_size * (1 - p.clamp(max=1.0)) ** (slate_size - 1)
    return -batch_mean(rewards * weights * gain * log_p, total)
