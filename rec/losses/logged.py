"""Logged actions in a loss: checks of what was logged, importance weights, and means over the global batch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rec.weights import Total, importance_weights, self_normalized

NormalizeOver = Literal["clicked", "all"]


def in_float(logits: Tensor) -> Tensor:
    """Logits in float32, or float64 where they are so."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_probability(logits: Tensor, actions: Tensor) -> Tensor:
    """Natural log of softmax(logits) at the actions: logits (B, N), actions (B,), result (B,)."""
    return at_columns(logits, actions) - logits.logsumexp(dim=1)


def checked_rewards(rewards: Tensor | None, like: Tensor) -> Tensor:
    """The rewards in the type of `like` (B,), or a 1 for each row where there are none, (B,).

    Raises: ValueError: for another shape, or naming the first row whose reward is not finite.
    """
    if rewards is None:
        return torch.ones_like(like)
    check_shape("rewards", rewards, len(like))
    refuse(~rewards.isfinite(), "rewards must be finite", rewards)
    return rewards.to(like.dtype)


def check_actions(logits: Tensor, actions: Tensor) -> None:
    """Refuses actions that are no column of the logits.

    Raises: ValueError: for shapes that do not fit, or naming the first row whose action is out of range.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must be (B, N), one row per logged action; found {tuple(logits.shape)}")
    check_shape("actions", actions, len(logits))
    outside = (actions < 0) | (actions >= logits.shape[1])
    refuse(outside, f"actions must be columns of the logits, 0 to {logits.shape[1] - 1}", actions)


def check_shape(name: str, values: Tensor, *shape: int) -> None:
    """Refuses a tensor of another shape.

    Raises: ValueError: naming it, the shape it must have, and the shape it has.
    """
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; found {tuple(values.shape)}")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuses a value that is none of a Literal's.

    Raises: ValueError: naming the choices.
    """
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}; found {value!r}")


def refuse(wrong: Tensor, what: str, values: Tensor) -> None:
    """Refuses values (B,) where `wrong` (B,) is set.

    Raises: ValueError: saying what is required, and naming the first row and its value.
    """
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(f"{what}; {int(wrong.sum())} of {len(wrong)} rows are wrong, first row {row}: {values[row]:g}")


def finite_rows(values: Tensor) -> Tensor:
    """Whether all values of a row are finite, (B, N) to (B,): where its sum is, which is quicker to find."""
    finite = values.sum(dim=1).isfinite()
    return finite if finite.all() else values.isfinite().all(dim=1)


@dataclass(frozen=True, slots=True)
class Weighting:
    """How a loss weighs logged actions; its fields are keywords of the losses.

    Attributes:
        min_weight, max_weight: range of the importance weights.
        self_normalize: whether they are divided by their mean.
        normalize_over: which weights are averaged: those of rows whose reward is not 0, or all.
        total: sum over all workers.
    """

    min_weight: float
    max_weight: float
    self_normalize: bool
    normalize_over: NormalizeOver
    total: Total | None

    def __post_init__(self) -> None:
        check_choice("normalize_over", self.normalize_over, NormalizeOver)

    def weights(self, p_action: Tensor, propensities: Tensor, rewards: Tensor) -> Tensor:
        """Importance weights of logged actions, constant, (B,).

        Args: p_action: probability of the logged action under the policy in training, without gradient, (B,).
            propensities: under the logging policy, (B,). rewards: (B,).
        Raises: ValueError: for a negative reward with a floor under its weight. SupportError: for a propensity out of
            (0, 1].
        """
        check_shape("propensities", propensities, len(p_action))
        if self.min_weight > 0:
            what = f"rewards below 0 diverge with min_weight {self.min_weight}: set 0, or subtract a baseline"
            refuse(rewards < 0, what, rewards)
        logged = propensities.to(p_action.dtype)
        weights = importance_weights(p_action, logged, min_weight=self.min_weight, max_weight=self.max_weight)
        if not self.self_normalize:
            return weights
        return self_normalized(
            weights, among=rewards != 0 if self.normalize_over == "clicked" else None, total=self.total
        )


def batch_mean(values: Tensor, total: Total | None) -> Tensor:
    """This worker's part of the mean over the global batch; the mean of the parts over the workers is the mean.

    Args: values: one per row of this worker, (b,). total: sum over all workers; without it there is one.
    """
    if total is None:
        return values.sum() / max(len(values), 1)
    workers, rows = total(torch.tensor([1.0, float(len(values))], dtype=torch.float64, device=values.device))
    return values.sum() * (workers / rows.clamp(min=1)).to(values.dtype)


def at_columns(values: Tensor, columns: Tensor) -> Tensor:
    """The value of each row at its column: values (B, N), columns (B,), result (B,)."""
    return values.gather(1, columns.unsqueeze(1)).squeeze(1)
