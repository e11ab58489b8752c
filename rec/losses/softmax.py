"""Softmax losses: a row's positive items against others of the batch, of a sample, or of the whole catalogue."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["mean", "none"]


def logq_softmax(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    log_q: Tensor,
    *,
    temperature: float = 0.05,
    positives: Tensor | None = None,
    excluded: Tensor | None = None,
    draws: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """In-batch softmax corrected for how often each item is drawn: s(x, y) / temperature - log q(y).

    The loss of row b and its positive y is -log of y's share among y and the negatives of b. Columns that hold the
    item of any positive of b are no negatives of b, neither are those of `excluded`.
    Source: Yi et al. (2019), section 3, doi:10.1145/3298689.3346996. Differs from it in: duplicates are masked, and
    a row may have several positives, each against the same negatives.

    Args: users: L2-normalised embeddings, (B, D). items: L2-normalised embeddings of the candidates, (C, D).
        item_ids: which item a candidate is, (C,). log_q: natural log of its probability per draw, (C,), or for each
        row where rows have draws of their own, (B, C). temperature: > 0. positives: column of each row's positive,
        (B,), or of its P positives, (B, P); by default row b's is column b. excluded: candidates that are no negatives
        of the row, bool, (B, C). draws: how often each candidate was drawn, (C,), or drawn for the row, (B, C), 0 for
        one that is no negative of it; where `item_ids` are unique and stand for several equal columns; by default once.
        reduction: "none" returns the loss of each positive.
    Returns: mean loss, scalar; or the losses in the shape of `positives`.
    """
    if positives is None:
        positives = torch.arange(len(users), device=users.device)
    columns = positives if positives.ndim == 2 else positives.unsqueeze(1)
    scaled = users.float() / temperature
    items = items.float()
    offset = -log_q.float()
    weight = offset if draws is None else torch.where(draws > 0, offset + draws.float().log(), 0.0)
    logits = torch.addmm(weight, scaled, items.T)
    own = offset.expand_as(logits).gather(1, columns)
    positive_logits = (scaled.unsqueeze(1) * items[columns]).sum(-1) + own
    if draws is None:
        masked = _same_item(item_ids, columns)
    else:
        masked = (draws == 0).expand_as(logits).scatter(1, columns, True)
    if excluded is not None:
        masked |= excluded
    losses = _softmax_losses(logits, positive_logits, masked)
    return losses.mean() if reduction == "mean" else losses.reshape(positives.shape)


def mixed_negative(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    log_q: Tensor,
    *,
    n_batch: int,
    n_items: int,
    temperature: float = 0.05,
    positives: Tensor | None = None,
    excluded: Tensor | None = None,
    draws: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The corrected softmax where some candidates come from the batch and the others uniformly from the catalogue.

    Source: Yang et al. (2020), Mixed negative sampling, section 3.2, doi:10.1145/3366424.3386195.

    Args: as of `logq_softmax`; log_q: log probability of the item per draw of the *batch*. n_batch: how many draws
        came from the batch; the others are uniform. n_items: size of the catalogue they come from.
    Returns: mean loss, scalar; or the losses in the shape of `positives`.
    """
    n_draws = len(items) if draws is None else int(draws.sum())
    mixed = mixed_log_q(log_q, n_batch=n_batch, n_uniform=n_draws - n_batch, n_items=n_items)
    return logq_softmax(
        users,
        items,
        item_ids,
        mixed,
        temperature=temperature,
        positives=positives,
        excluded=excluded,
        draws=draws,
        reduction=reduction,
    )


def mixed_log_q(log_q: Tensor, *, n_batch: int, n_uniform: int, n_items: int) -> Tensor:
    """Log of q(j) = (n_batch * q_batch(j) + n_uniform / n_items) / (n_batch + n_uniform).

    Args: log_q: log q_batch, (C,). n_batch, n_uniform: draws of each kind. n_items: size of the catalogue.
    Returns: log q, (C,).
    """
    if n_uniform == 0:
        return log_q
    uniform = torch.full_like(log_q, math.log(n_uniform / n_items))
    return torch.logaddexp(log_q + math.log(n_batch), uniform) - math.log(n_batch + n_uniform)


def pooled_log_q(log_q: Tensor, in_pool: Tensor, pool_size: Tensor, *, n_common: int, n_own: Tensor) -> Tensor:
    """Log of q(j | b) = (n_common * q(j) + n_own_b * [j in pool_b] / pool_size_b) / (n_common + n_own_b).

    Draws that all rows have in common, and draws of each row from a pool of its own, uniformly, taken for draws from
    their mixture. For a row whose pool does not depend on the common draws, the sum over all draws of f(j) / q(j | b),
    divided by their number, is an unbiased estimate of the sum of f over what can be drawn.
    Source: the balance heuristic of Veach and Guibas (1995), section 3.3, doi:10.1145/218380.218498.

    Args: log_q: log q(j), (C,). in_pool: whether the row's pool holds the candidate, bool, (B, C).
        pool_size: items of the row's pool, (B,). n_common: draws of all rows. n_own: draws of the row, (B,), 0 where
        its pool is empty.
    Returns: log q(j | b), (B, C); -inf for what is drawn neither way.
    """
    own = torch.where(in_pool, (n_own / pool_size.clamp(min=1)).log().unsqueeze(1), -math.inf)
    return torch.logaddexp(log_q + math.log(n_common), own) - (n_common + n_own).log().unsqueeze(1)


def cross_entropy(
    logits: Tensor, positives: Tensor, *, excluded: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Softmax over the whole catalogue: -log of the positive's share among it and the row's negatives.

    Args: logits: scores already divided by the temperature, (B, N). positives: item of each row, (B,), or its P items,
        (B, P), each against the same negatives. excluded: items that are no negatives of the row, bool, (B, N).
    Returns: mean loss, scalar; or the losses in the shape of `positives`.
    """
    columns = positives if positives.ndim == 2 else positives.unsqueeze(1)
    logits = logits.float()
    if columns.shape[1] == 1 and excluded is None:
        losses = functional.cross_entropy(logits, columns[:, 0], reduction="none")
    else:
        masked = torch.zeros_like(logits, dtype=torch.bool).scatter(1, columns, True)
        if excluded is not None:
            masked |= excluded
        losses = _softmax_losses(logits, logits.gather(1, columns), masked)
    return losses.mean() if reduction == "mean" else losses.reshape(positives.shape)


def _same_item(item_ids: Tensor, columns: Tensor) -> Tensor:
    """Which candidates (C,) hold an item of the row's positives (B, P), (B, C)."""
    same = item_ids == item_ids[columns[:, :1]]
    for place in range(1, columns.shape[1]):
        same |= item_ids == item_ids[columns[:, place : place + 1]]
    return same


def _softmax_losses(logits: Tensor, positive_logits: Tensor, masked: Tensor) -> Tensor:
    """log(exp(z_p) + sum of exp over the unmasked columns) - z_p for each positive, (B, P).

    A row without negatives loses nothing.
    """
    # Beside the largest term, e^-80 is nothing in float32; but exp(-inf) costs a CPU ten times what exp(-80) does.
    floor = logits.detach().masked_fill(masked, -math.inf).amax(dim=1, keepdim=True) - 80.0
    negatives = torch.where(masked, floor, logits).logsumexp(dim=1, keepdim=True)
    return functional.softplus(negatives - positive_logits)
