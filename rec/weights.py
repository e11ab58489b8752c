"""Importance weights, on torch tensors and NumPy arrays alike: the losses and the off-policy estimates share them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.errors import DataError, SupportError

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]
Numbers = TypeVar("Numbers", Tensor, FloatArray)
Total = Callable[[Tensor], Tensor]

# Probabilities that were computed in float32 may exceed 1 by as much.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class WeightDiagnostics:
    """What importance weights say about the overlap of two policies.

    Attributes:
        n: number of weights.
        mean: of the weights. Unclipped, its expectation under the logging policy is 1; far from it, the largest weights
            are too rare to have been drawn, the propensities are wrong, or the logging policy never showed what the
            other one shows.
        max: the largest weight.
        ess: effective sample size.
    """

    n: int
    mean: float
    max: float
    ess: float


def importance_weights(
    target_p: Numbers, propensity: Numbers, *, min_weight: float = 0.0, max_weight: float = math.inf
) -> Numbers:
    """Importance weights target_p / propensity, kept within [min_weight, max_weight].

    Source of the cap: Ionides (2008), Truncated importance sampling, doi:10.1198/106186008X320456; of cap and floor
    together: Ma et al. (2020), doi:10.1145/3366423.3380130.

    Args: target_p: probability of the logged action under the policy to evaluate or train, at least 0, any shape.
        propensity: its probability under the logging policy, in (0, 1], same shape. min_weight, max_weight: the range.
    Returns: weights in the kind and shape of the inputs.
    Raises: SupportError: naming the first row whose propensity is not in (0, 1], or whose weight overflows.
        ValueError: for shapes that differ, a target_p that is negative or no number, or a range that is empty.
    """
    if not (0 <= min_weight <= max_weight and min_weight < math.inf and max_weight > 0):
        raise ValueError(f"0 <= min_weight <= max_weight > 0 is required; found {min_weight} and {max_weight}")
    if target_p.shape != propensity.shape:
        raise ValueError(
            "target_p and propensity must have one entry per logged action each; found shapes "
            f"{tuple(target_p.shape)} and {tuple(propensity.shape)}"
        )
    unsupported = ~((propensity > 0) & (propensity <= 1 + _ROUNDING))
    if unsupported.any():
        row = _first_row(unsupported)
        raise SupportError(
            f"propensity must be in (0, 1]; {int(unsupported.sum())} of {_size(unsupported)} are not, the first is "
            f"{_first(propensity, unsupported)}: log with epsilon > 0, or leave these rows out",
            row=row,
            column="propensity",
        )
    wrong = ~(target_p >= 0)
    if wrong.any():
        raise ValueError(f"target_p must be at least 0; row {_first_row(wrong)} has {_first(target_p, wrong)}")
    with np.errstate(over="ignore"):  # is told below
        weights = (target_p / propensity).clip(min_weight, max_weight)
    endless = weights == math.inf
    if endless.any():
        raise SupportError(
            f"the propensity is so small that the weight has no number: {_first(propensity, endless)}; leave such rows "
            "out, or cap the weights",
            row=_first_row(endless),
            column="propensity",
        )
    return weights


@overload
def self_normalized(weights: Tensor, *, among: Tensor | None = None, total: Total | None = None) -> Tensor: ...
@overload
def self_normalized(
    weights: FloatArray, *, among: BoolArray | None = None, total: Total | None = None
) -> FloatArray: ...
def self_normalized(weights: Any, *, among: Any = None, total: Total | None = None) -> Any:
    """Weights over their mean, so that adding a constant to all rewards adds it to their weighted mean.

    Source: Swaminathan and Joachims (2015), The self-normalized estimator for counterfactual learning, NeurIPS.

    Args: weights: at least 0, (n,). among: rows whose weights are averaged, bool, (n,); all by default. total: sum of a
        tensor over all workers, such as `rec.training.Worker.total`: the mean is then that of the global batch.
    Returns: normalised weights, (n,). Where the weights to be averaged are all 0, or none, the weights as they are.
    """
    among = weights >= 0 if among is None else among
    sums = (weights * among).sum(), among.sum()
    if total is not None:
        sums = total(torch.stack([sums[0], sums[1].to(sums[0].dtype)]))
    # No weights count as a mean of 1, weights of 0 as well: neither may turn into NaN.
    mean = sums[0] / (sums[1] + (sums[1] == 0))
    return weights / (mean + (mean == 0))


def effective_sample_size(weights: Tensor | FloatArray) -> float:
    """How many equally weighted rows carry as much information: (sum of w)^2 / sum of w^2, between 1 and n.

    Source: Kish (1965), Survey sampling, section 11.7. 0 where all weights are 0.
    """
    if not len(weights):
        return 0.0
    largest = float(weights.max())
    if largest <= 0:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum()) ** 2 / float((scaled * scaled).sum())


def diagnose(weights: Tensor | FloatArray | Sequence[float]) -> WeightDiagnostics:
    """Diagnostics of importance weights, (n,).

    Raises: DataError: when there are none.
    """
    if not isinstance(weights, Tensor):
        weights = np.asarray(weights)
    if not len(weights):
        raise DataError("there are no weights to diagnose: one at least is required", column="weights")
    return WeightDiagnostics(
        n=len(weights),
        mean=float(weights.mean()),
        max=float(weights.max()),
        ess=effective_sample_size(weights),
    )


def _size(mask: Any) -> int:
    return math.prod(mask.shape)


def _first_row(mask: Any) -> int:
    """Row of the first entry that is set; NumPy's and torch's `nonzero` lay their indices out differently."""
    rows = (mask.reshape(len(mask), -1).sum(1) > 0).nonzero()
    return int(rows[0].reshape(-1)[0])


def _first(values: Any, mask: Any) -> float:
    return float(values[mask][0])
