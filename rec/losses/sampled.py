"""Off-policy losses for catalogues too large to score: the softmax's sum and the slates come from weighted draws.

The policy is p(a) = exp(user . item_a / temperature) / Z over N items, but only the S items drawn for a row are scored:
Z is estimated by exp(logit_a) + 1/S of the sum of exp(logit) / q over the draws that are not a, which is unbiased
whatever the proposal q (`rec.proposals`). What is a ratio of such sums (log p, its gradient, the slates) is
self-normalised, with a bias that falls as 1 / S.
Source: Sakhi, Rohde and Gilotte (2023), arXiv:2208.05327. Differs from it in: the logged action's term of Z is exact,
so that no p exceeds 1; item embeddings learn, too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rec.losses.logged import (
    NormalizeOver,
    Weighting,
    batch_mean,
    check_shape,
    checked_rewards,
    finite_rows,
    in_float,
    refuse,
)
from rec.losses.slates import rewarded_slate_objective
from rec.losses.two_stage import Duplicates, check_slates, checked_uniforms
from rec.weights import Total

Lookup = Callable[[Tensor], Tensor]


def sampled_ips(
    users: Tensor,
    items: Lookup,
    actions: Tensor,
    propensities: Tensor,
    draws: Tensor,
    log_q: Tensor,
    *,
    temperature: float = 1.0,
    excluded: Tensor | None = None,
    rewards: Tensor | None = None,
    min_weight: float = 0.01,
    max_weight: float = 10.0,
    self_normalize: bool = True,
    normalize_over: NormalizeOver = "clicked",
    total: Total | None = None,
) -> Tensor:
    """`rec.losses.ips` from S scored items a row.

    Args: users: embeddings, (B, D). items: embeddings of items by id: (B, C) to (B, C, D). actions: logged items, (B,).
        propensities: (B,). draws: items drawn for each row, (B, S). log_q: natural log of their probability per draw,
        (B, S). temperature: of the softmax, > 0. excluded: draws that the policy does not choose from, bool, (B, S);
        Z leaves them out. The others as of `ips`.
    Returns: scalar; with `total` this worker's part.
    Raises: as `ips`.
    """
    _, logits, log_z, _ = _scored(users, items, actions, draws, log_q, temperature, excluded)
    log_p = logits[:, 0] - log_z
    rewards = checked_rewards(rewards, log_p)
    weighting = Weighting(min_weight, max_weight, self_normalize, normalize_over, total)
    weights = weighting.weights(log_p.detach().exp(), propensities, rewards)
    return -batch_mean(rewards * weights * log_p, total)


def sampled_two_stage_ips(
    users: Tensor,
    items: Lookup,
    actions: Tensor,
    propensities: Tensor,
    draws: Tensor,
    log_q: Tensor,
    ranker: Lookup,
    *,
    temperature: float = 1.0,
    excluded: Tensor | None = None,
    rewards: Tensor | None = None,
    n_slates: int = 100,
    slate_size: int = 30,
    alpha: float = 1e-2,
    slate_temperature: float = math.e,
    min_weight: float = 0.01,
    max_weight: float = 10.0,
    self_normalize: bool = True,
    normalize_over: NormalizeOver = "clicked",
    duplicates: Duplicates = "drop",
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    total: Total | None = None,
) -> Tensor:
    """`rec.losses.two_stage_ips` from S scored items a row: slates are drawn again from the draws, by their weight.

    The slates' distribution softmax(logits / slate_temperature) becomes one over the action and the row's draws, in
    proportion to exp(logit / slate_temperature) / q: sampling importance resampling, Rubin (1988).

    Args: as of `sampled_ips` and `two_stage_ips`; ranker: logits of items by id, constant: (B, C) to (B, C).
    Returns: scalar; with `total` this worker's part.
    Raises: as `two_stage_ips`.
    """
    check_slates(duplicates, alpha, slate_temperature)
    ids, logits, log_z, correction = _scored(users, items, actions, draws, log_q, temperature, excluded)
    log_p = logits - log_z.unsqueeze(1)
    target_p = log_p[:, 0].detach().exp()
    rewards = checked_rewards(rewards, target_p)
    weighting = Weighting(min_weight, max_weight, self_normalize, normalize_over, total)
    weights = weighting.weights(target_p, propensities, rewards)
    ranker_logits = ranker(ids).detach()
    check_shape("the ranker's logits", ranker_logits, *ids.shape)
    objective = rewarded_slate_objective(
        rewards,
        log_p,
        logits.detach() / slate_temperature + correction,
        ranker_logits,
        torch.zeros_like(actions),
        checked_uniforms(uniforms, (len(actions), n_slates, slate_size - 1), generator, users.device),
        alpha=alpha,
        first=first_column(ids) if duplicates == "drop" else None,
    )
    return -batch_mean(weights * objective, total)


def _scored(
    users: Tensor,
    items: Lookup,
    actions: Tensor,
    draws: Tensor,
    log_q: Tensor,
    temperature: float,
    excluded: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The action and the draws as columns: ids and logits (B, 1 + S), log Z (B,), log weight of a column (B, 1 + S)."""
    n_rows, n_draws = len(users), draws.shape[-1]
    check_shape("actions", actions, n_rows)
    check_shape("draws", draws, n_rows, n_draws)
    check_shape("log_q", log_q, n_rows, n_draws)
    refuse(~finite_rows(log_q), "log_q must be finite: a draw has a probability above 0", log_q.amin(dim=1))
    ids = torch.cat([actions.unsqueeze(1), draws], dim=1)
    vectors = in_float(items(ids))
    check_shape("the items' embeddings", vectors, *ids.shape, users.shape[1])
    logits = (vectors @ in_float(users).unsqueeze(2)).squeeze(2) / temperature
    left_out = draws == actions.unsqueeze(1)
    if excluded is not None:
        check_shape("excluded", excluded, n_rows, n_draws)
        left_out |= excluded
    weight = (-log_q - math.log(n_draws)).to(logits.dtype).masked_fill(left_out, -math.inf)
    correction = torch.cat([torch.zeros_like(weight[:, :1]), weight], dim=1)
    return ids, logits, (logits + correction).logsumexp(dim=1), correction


def first_column(ids: Tensor) -> Tensor:
    """The first column of the row that holds the same id: ids (B, C), result (B, C)."""
    ordered, order = ids.sort(dim=1, stable=True)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    start = places.masked_fill(~begins, 0).cummax(dim=1).values
    return torch.zeros_like(order).scatter(1, order, order.gather(1, start))
