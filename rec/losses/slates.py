"""Candidate slates that a softmax policy would draw, and what a ranker makes of them."""

import math

import torch
from torch import Tensor

from rec.losses.logged import at_columns


def slate_objective(
    log_p: Tensor,
    draw_logits: Tensor,
    ranker_logits: Tensor,
    actions: Tensor,
    uniforms: Tensor,
    *,
    alpha: float,
    first: Tensor | None,
) -> Tensor:
    """mean_t(q_t) log p(a) + alpha mean_t(q_t * sum over slate t without a of log p), the gradient through log p alone.

    Slate t is the action a and K - 1 columns drawn with replacement; q_t is a's share of the ranker's softmax over it.
    Source: Ma et al. (2020), algorithm 1, doi:10.1145/3366423.3380130.

    Args: log_p: log probabilities of C columns, (B, C). draw_logits: columns are drawn by their softmax, (B, C).
        ranker_logits: (B, C). actions: column of a, (B,). uniforms: numbers in [0, 1) to draw with, (B, T, K - 1).
        alpha: weight of the items beside a. first: the first column that holds the same item as this one, (B, C) or
        (1, C), where a slate holds an item once; None where it holds what was drawn as often as it was drawn.
    Returns: one per row, (B,).
    """
    with torch.no_grad():
        weights = draw_logits.softmax(dim=1)
        lead = ranker_logits - at_columns(ranker_logits, actions).unsqueeze(1)
    if log_p.device.type == "cpu":
        from rec.losses.slate_loop import SlateObjective

        odds = lead.to(log_p.dtype).exp_()
        return SlateObjective.apply(log_p, weights, odds, actions, uniforms, alpha, first)  # pyright: ignore
    return whole_tensor_objective(log_p, weights, lead, actions, uniforms, alpha=alpha, first=first)


def rewarded_slate_objective(
    rewards: Tensor,
    log_p: Tensor,
    draw_logits: Tensor,
    ranker_logits: Tensor,
    actions: Tensor,
    uniforms: Tensor,
    *,
    alpha: float,
    first: Tensor | None,
) -> Tensor:
    """`slate_objective` times the rewards, without slates for rows whose reward is 0: in most logs, nearly all rows.

    Args: rewards: (B,). The others as of `slate_objective`.
    Returns: one per row, (B,).
    """
    rows = rewards.nonzero().squeeze(1)
    if len(rows) == len(rewards):
        return rewards * slate_objective(log_p, draw_logits, ranker_logits, actions, uniforms, alpha=alpha, first=first)
    found = slate_objective(
        log_p[rows],
        draw_logits[rows],
        ranker_logits[rows],
        actions[rows],
        uniforms[rows],
        alpha=alpha,
        first=first if first is None or len(first) == 1 else first[rows],
    )
    return torch.zeros_like(rewards).index_put((rows,), rewards[rows] * found)


def whole_tensor_objective(
    log_p: Tensor,
    weights: Tensor,
    lead: Tensor,
    actions: Tensor,
    uniforms: Tensor,
    *,
    alpha: float,
    first: Tensor | None,
) -> Tensor:
    """`slate_objective` in operations on whole tensors, for devices that a compiled loop does not run on.

    Args: as of `slate_objective`; weights: by which columns are drawn, (B, C). lead: the ranker's logit of each column
        over that of the action, (B, C).
    """
    with torch.no_grad():
        columns = draw(weights, uniforms)
        repeated = None
        if first is not None:
            drawn = first.expand_as(log_p).gather(1, columns.flatten(1)).view(columns.shape)
            columns = drawn.sort(dim=2).values
            repeated = columns == at_columns(first.expand_as(log_p), actions).view(-1, 1, 1)
            repeated[..., 1:] |= columns[..., 1:] == columns[..., :-1]
        flat = columns.flatten(1)
        leads = lead.gather(1, flat).view(columns.shape).to(log_p.dtype)
        share = 1 / (1 + (leads if repeated is None else leads.masked_fill(repeated, -math.inf)).exp().sum(dim=2))
        credit = (share * (alpha / columns.shape[1])).unsqueeze(2).expand_as(columns)
        if repeated is not None:
            credit = credit.masked_fill(repeated, 0)
    beside = (credit.flatten(1) * log_p.gather(1, flat)).sum(dim=1)
    return share.mean(dim=1) * at_columns(log_p, actions) + beside


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Columns drawn in proportion to their weights: the first whose cumulated weight reaches 1 - u of the row's.

    Args: weights: at least 0, not all 0, (B, C). uniforms: one number in [0, 1) per draw, (B, T, M).
    Returns: columns, none of weight 0, (B, T, M).
    """
    cumulated = weights.double().cumsum(dim=1)
    points = (1 - uniforms.double()).flatten(1) * cumulated[:, -1:]
    # Weights that are no numbers find the end; their row's log probabilities are none either, and say so.
    return torch.searchsorted(cumulated, points).clamp_(max=weights.shape[1] - 1).view(uniforms.shape)
