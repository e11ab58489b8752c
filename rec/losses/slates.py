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
    items: Tensor | None,
) -> Tensor:
    """mean_t(q_t) log p(a) + alpha mean_t(q_t * sum over slate t without a of log p), the gradient through log p alone.

    Slate t is the action a and K - 1 columns drawn with replacement; q_t is a's share of the ranker's softmax over it.
    Source: Ma et al. (2020), algorithm 1, doi:10.1145/3366423.3380130.

    Args: log_p: log probabilities of C columns, (B, C). draw_logits: log weights by which columns are drawn, (B, C).
        ranker_logits: (B, C). actions: column of a, (B,). uniforms: numbers in [0, 1) to draw with, (B, T, K - 1).
        alpha: weight of the items beside a. items: which item a column is, equal ones neighbours, (B, C) or (1, C),
        when a slate holds an item once; None when it holds what was drawn as often as it was drawn.
    Returns: one per row, (B,).
    """
    with torch.no_grad():
        columns = draw_slates(draw_logits, uniforms)
        flat = columns.flatten(1)
        lead = ranker_logits.gather(1, flat) - ranker_logits.gather(1, actions.unsqueeze(1))
        lead = lead.to(log_p.dtype).view(columns.shape)
        repeated = None if items is None else _repeated(columns, actions, items.expand_as(log_p))
        if repeated is not None:
            lead = lead.masked_fill_(repeated, -math.inf)
        share = 1 / (1 + lead.exp_().sum(dim=2))
        counted = share.unsqueeze(2).expand_as(columns) * (alpha / columns.shape[1])
        if repeated is not None:
            counted = counted.masked_fill_(repeated, 0)
    beside = (counted.flatten(1) * log_p.gather(1, flat)).sum(dim=1)
    return share.mean(dim=1) * at_columns(log_p, actions) + beside


def draw_slates(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Columns drawn independently from softmax(logits), each slate in descending order; none of logit -inf is drawn.

    Args: logits: (B, C). uniforms: independent numbers in [0, 1), one per draw, (B, T, M).
    Returns: columns, (B, T, M).
    """
    largest = logits.amax(dim=1, keepdim=True)
    cdf = (logits - largest).exp().cumsum(dim=1)
    points = descending_uniforms(uniforms.to(cdf.dtype)).flatten(1) * cdf[:, -1:]
    return inverse_cdf(cdf, points).view(uniforms.shape)


def descending_uniforms(uniforms: Tensor) -> Tensor:
    """Independent uniform numbers made into the descending order statistics of as many, over the last axis.

    The largest of m is V^(1/m), the next one that times V^(1/(m - 1)), and so on: no sorting is needed.
    Source: Lurie and Hartley (1972), doi:10.1080/00031305.1972.10478940.

    Args: uniforms: in [0, 1), (..., M).
    Returns: in (0, 1], (..., M).
    """
    ranks = torch.arange(uniforms.shape[-1], 0, -1, dtype=uniforms.dtype, device=uniforms.device)
    return (1 - uniforms).log_().div_(ranks).cumsum(dim=-1).exp_()


def inverse_cdf(cdf: Tensor, points: Tensor) -> Tensor:
    """The first column of each row whose cumulated weight reaches the point.

    Args: cdf: ascending, (B, C). points: in (0, cdf[:, -1]], (B, M).
    Returns: columns, (B, M).
    """
    if cdf.device.type != "cpu":
        return torch.searchsorted(cdf, points)
    from rec.losses.cdf_search import search

    found = torch.empty(points.shape, dtype=torch.int64)
    search(cdf.numpy(), points.numpy(), found.numpy())
    return found


def _repeated(columns: Tensor, actions: Tensor, items: Tensor) -> Tensor:
    """Which draws are the action's item, or that of the draw before in a sorted slate, (B, T, M)."""
    drawn = items.gather(1, columns.flatten(1)).view(columns.shape)
    repeated = drawn == at_columns(items, actions).view(-1, 1, 1)
    repeated[..., 1:] |= drawn[..., 1:] == drawn[..., :-1]
    return repeated
