"""Learning the first of two stages for what both of them show: off-policy, through the ranker's eyes."""

import math
from typing import Literal

import torch
from torch import Tensor

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
    refuse,
)
from rec.losses.slates import rewarded_slate_objective
from rec.weights import Total

Duplicates = Literal["drop", "keep"]


def two_stage_ips(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    ranker_logits: Tensor,
    *,
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
    """Policy gradient of a candidate generator p = softmax(logits) whose candidates a ranker q orders afterwards.

    -mean of r w [mean_t(q_t) log p(a) + alpha mean_t(q_t * sum over slate t without a of log p)]: slate t is a and
    slate_size - 1 draws from softmax(logits / slate_temperature), q_t is a's share of the ranker's softmax over it.
    Source: Ma et al. (2020), section 4 and algorithm 1, doi:10.1145/3366423.3380130.

    Duplicates kept, both temperature and alpha 1, weights neither clipped nor normalised: slate_size times its gradient
    is, in expectation, that of minus the two-stage policy's estimated value, sum over slates of p(slate) q(a | slate),
    where a slate may hold an item several times. Otherwise it is biased, and varies far less.

    Args: logits: of the generator, divided by its temperature, (B, N). actions: logged items, (B,). propensities: of
        what was logged, (B,). ranker_logits: of all items, constant, (B, N). rewards: (B,); 1 by default.
        n_slates: T. slate_size: items of a slate, the action included. alpha: weight of the items beside it.
        min_weight, max_weight, self_normalize, normalize_over: as of `rec.losses.ips`. duplicates: "drop" what a slate
        holds already, or "keep" it. generator: of the draws. uniforms: numbers in [0, 1) to draw with instead,
        (B, n_slates, slate_size - 1), so that several workers draw what one would (`rec.sampling.row_uniforms`).
        total: sum over all workers.
    Returns: scalar; with `total` this worker's part.
    Raises: ValueError: for shapes or values out of range, naming the first row; for a negative reward with
        min_weight > 0, whose loss falls for ever as p(a) does. SupportError: for a propensity out of (0, 1].
    """
    check_slates(duplicates, alpha, slate_temperature)
    check_actions(logits, actions)
    check_shape("ranker_logits", ranker_logits, *logits.shape)
    refuse(~finite_rows(ranker_logits), "ranker_logits must be finite", ranker_logits.sum(dim=1))
    logits = in_float(logits)
    log_p = logits.log_softmax(dim=1)
    target_p = at_columns(log_p.detach(), actions).exp()
    rewards = checked_rewards(rewards, target_p)
    weighting = Weighting(min_weight, max_weight, self_normalize, normalize_over, total)
    weights = weighting.weights(target_p, propensities, rewards)
    columns = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)
    objective = rewarded_slate_objective(
        rewards,
        log_p,
        logits.detach() / slate_temperature,
        ranker_logits.detach(),
        actions,
        checked_uniforms(uniforms, (len(logits), n_slates, slate_size - 1), generator, logits.device),
        alpha=alpha,
        first=columns if duplicates == "drop" else None,
    )
    return -batch_mean(weights * objective, total)


def check_slates(duplicates: str, alpha: float, slate_temperature: float) -> None:
    """Refuses what slates cannot be drawn by.

    Raises: ValueError: for an unknown choice, an alpha that is negative, or a temperature that is not above 0.
    """
    check_choice("duplicates", duplicates, Duplicates)
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be at least 0, and finite; found {alpha}")
    if not 0 < slate_temperature < math.inf:
        raise ValueError(f"slate_temperature must be above 0, and finite; found {slate_temperature}")


def checked_uniforms(
    uniforms: Tensor | None, shape: tuple[int, int, int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """The uniform numbers given, or new ones: rows, slates, and the draws of each.

    Raises: ValueError: for a shape without slates, with negative draws, or other than that of the numbers given.
    """
    _, n_slates, n_draws = shape
    if n_slates < 1 or n_draws < 0:
        raise ValueError(f"n_slates and slate_size must be at least 1; found {n_slates} and {n_draws + 1}")
    if uniforms is None:
        return torch.rand(shape, generator=generator, device=device)
    check_shape("uniforms", uniforms, *shape)
    if uniforms.numel() and not (uniforms.amin() >= 0 and uniforms.amax() < 1):
        raise ValueError(f"uniforms must lie in [0, 1); found {uniforms.amin():g} to {uniforms.amax():g}")
    return uniforms
