"""The two-stage loss without drawing slates: their mean, in closed form up to one integral."""

import math
from typing import Final

import torch
from torch import Tensor

from rec.weights import importance_weights, self_normalized

# Nodes of the quadrature, in the logarithm of x.
_FIRST, _LAST, _STEP = -12.0, 4.0, 1.0
MIN_WEIGHT, MAX_WEIGHT = 0.01, 10.0
_NODES: Final = torch.arange(_FIRST, _LAST, _STEP)


def exact_two_stage_ips(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    ranker_logits: Tensor,
    *,
    slate_size: int,
    slate_temperature: float,
    alpha: float,
) -> Tensor:
    """`rec.losses.two_stage_ips` with duplicates kept, averaged over all slates.

    A slate is the action a and K - 1 independent draws from p~ = softmax(logits / slate_temperature). With
    r_j = exp(ranker_j - ranker_a) the ranker's share of a is 1 / (1 + sum of r over the draws), and as
    1 / (1 + S) = integral over x > 0 of exp(-x) exp(-x S), its mean over all slates is

        h = integral of exp(-x) phi(x)^(K-1) dx,   phi(x) = sum_j p~_j exp(-x r_j),

    and the mean of share times the number of times j is drawn
        g_j = (K - 1) p~_j integral of exp(-x) exp(-x r_j) phi(x)^(K-2) dx.

    The integrals are the trapezoid's in log x, to about three digits. The loss is
    -mean of w [h log p(a) + alpha sum_j g_j log p_j].

    Args: logits, ranker_logits: (B, N). actions, propensities: (B,).
    """
    log_p = logits.log_softmax(dim=1)
    with torch.no_grad():
        p = (logits / slate_temperature).softmax(dim=1)
        lead = (ranker_logits - ranker_logits.gather(1, actions[:, None])).clamp(max=30.0).exp()
        share, drawn = torch.zeros(len(p)), torch.zeros_like(p)
        for node in _NODES.tolist():
            x = math.exp(node)
            decay = (lead * -x).exp_().mul_(p)
            phi = decay.sum(dim=1)
            weight = _STEP * x * math.exp(-x) * phi ** (slate_size - 2)
            share += weight * phi
            drawn.addcmul_(decay, weight[:, None])
        drawn *= slate_size - 1
    log_p_action = log_p.gather(1, actions[:, None]).squeeze(1)
    target_p = log_p_action.detach().exp()
    weights = self_normalized(importance_weights(target_p, propensities, min_weight=MIN_WEIGHT, max_weight=MAX_WEIGHT))
    return -(weights * (share * log_p_action + alpha * (drawn * log_p).sum(dim=1))).mean()
