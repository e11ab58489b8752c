"""Propensities for a log that has none: a behaviour policy fitted to what was shown, and how well it is calibrated.

An estimated propensity is worse than a logged one. It can only depend on what the model reads: where the logging policy
knew more of a user than that, weights by these propensities are biased, and no figure here shows it. Intervals take
them as if they were known. Log propensities (`rec.policy`) wherever that is possible.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.errors import DataError

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Kind = Literal["softmax", "popularity"]

# An item counts as shown so many times more, so that none has probability 0.
_PRIOR_SHOWS: Final = 0.5
_L2: Final = 1.0
_STEPS: Final = 200


class PropensityWarning(UserWarning):
    """Propensities were estimated, not logged."""


@final
@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs of a row and an item with similar probability: the mean probability, and how often the item was shown."""

    predicted: float
    observed: float
    n: int


@final
@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities of held-out users describe what they were shown.

    Attributes:
        log_loss: mean of -log p of what was shown.
        popularity_log_loss: the same for shares of items alone, whatever the context: what a model has to beat.
        ece: expected calibration error: the sum over bins of |shows expected - shows seen|, per row; 0 at best.
        mean_inverse: mean of 1 / p of what was shown, over the number of items; 1 where the propensities are right.
        bins: each expects the same number of shows, from small probabilities to large ones.
        n: rows.
    """

    log_loss: float
    popularity_log_loss: float
    ece: float
    mean_inverse: float
    bins: tuple[ReliabilityBin, ...]
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True)
class EstimatedPropensities:
    """Probabilities of what was shown, each by a model that has not seen the user, (n,), and how good they are."""

    propensities: Floats
    calibration: Calibration


def estimate_propensities(
    items: Positions,
    users: NDArray[Any],
    n_items: int,
    *,
    context: Floats | None = None,
    positions: Positions | None = None,
    kind: Kind = "softmax",
    n_folds: int = 5,
) -> EstimatedPropensities:
    """The probability of each shown item under a behaviour policy fitted to the rows of other users.

    `softmax`: multinomial logistic regression of the item on the context and the position. `popularity`: the share of
    each item at each position, whatever the context.

    Args:
        items: shown, 0..n_items-1, (n,).
        users: (n,).
        n_items: N; rows times items must fit into memory.
        context: what the logging policy may have gone by, (n, F); softmax needs it.
        positions: in the slate, 0 for the top, (n,). None: all at the top.
        kind: of model.
        n_folds: of users.

    Warns: PropensityWarning: always, with what it costs and how far off calibration is.
    Raises: DataError: naming row and column for an item or position that is none.
    """
    slots = np.zeros(len(items), np.int64) if positions is None else np.asarray(positions, np.int64)
    _refuse((items < 0) | (items >= n_items), f"expected items in 0..{n_items - 1}", "item")
    _refuse(slots < 0, "expected positions of 0 or more", "position")
    if kind == "softmax" and context is None:
        raise DataError(
            "a softmax policy needs the context it may have gone by; take popularity without", column="context"
        )
    n_slots = int(slots.max()) + 1

    def probabilities(others: Rows, own: Rows) -> Floats:
        shares = _shares(items[others], slots[others], n_items, n_slots)
        if kind == "popularity" or context is None:
            return shares[slots[own]]
        return _softmax(context[others], items[others], slots[others], np.log(shares))(context[own], slots[own])

    folds = user_folds(users, n_folds)
    p = cross_fitted(folds, probabilities)
    popularity = cross_fitted(folds, lambda others, own: _overall(items[others], n_items)[items[own]])
    found = EstimatedPropensities(p[np.arange(len(items)), items], calibrate(p, items, popularity))
    told = found.calibration
    warnings.warn(
        f"propensities were estimated by a {kind} model, not logged. Weights by them are biased wherever the logging "
        "policy knew more than the model reads, and intervals do not count their error. On held-out users: log loss "
        f"{told.log_loss:.3f} (popularity alone {told.popularity_log_loss:.3f}), calibration error {told.ece:.3f} of "
        f"the shows, mean 1 / p over the number of items {told.mean_inverse:.2f} (1 where right)",
        PropensityWarning,
        stacklevel=2,
    )
    return found


def calibrate(p: Floats, items: Positions, popularity: Floats, *, n_bins: int = 10) -> Calibration:
    """Calibration of probabilities that have not seen these rows.

    Bins hold equal sums of probability rather than equal counts of pairs: nearly all pairs are items that are hardly
    ever shown, and would fill every bin. Source of the error: Naeini et al. (2015), doi:10.1609/aaai.v29i1.9602.

    Args: p: of every item, rows sum to 1, (n, N). items: shown, (n,). popularity: p of what was shown by its share
        alone, (n,). n_bins: at most so many.
    """
    n, n_items = p.shape
    shown = p[np.arange(n), items]
    hit = np.zeros(p.shape, dtype=bool)
    hit[np.arange(n), items] = True
    flat = p.reshape(-1)
    order = flat.argsort()
    expected = flat[order].cumsum()
    bin_of = np.minimum((expected * n_bins / expected[-1]).astype(np.int64), n_bins - 1)
    count, total, seen = (np.bincount(bin_of, values, n_bins) for values in (None, flat[order], hit.reshape(-1)[order]))
    bins = tuple(
        ReliabilityBin(float(total[b] / count[b]), float(seen[b] / count[b]), int(count[b]))
        for b in np.flatnonzero(count)
    )
    return Calibration(
        log_loss=float(-np.log(shown).mean()),
        popularity_log_loss=float(-np.log(popularity).mean()),
        ece=float(np.abs(total - seen).sum() / n),
        mean_inverse=float((1 / shown).mean() / n_items),
        bins=bins,
        n=n,
    )


def _overall(items: Positions, n_items: int) -> Floats:
    counts = np.bincount(items, minlength=n_items) + _PRIOR_SHOWS
    return counts / counts.sum()


def _shares(items: Positions, slots: Positions, n_items: int, n_slots: int) -> Floats:
    """The share of each item at each position, shrunk to its overall share by half as many shows as items."""
    overall = _overall(items, n_items)
    counts = np.bincount(slots * n_items + items, minlength=n_slots * n_items).reshape(n_slots, n_items)
    smoothed = counts + _PRIOR_SHOWS * n_items * overall
    return smoothed / smoothed.sum(axis=1, keepdims=True)


def _softmax(
    context: Floats, items: Positions, slots: Positions, base: Floats
) -> Callable[[Floats, Positions], Floats]:
    """P = softmax(base of the position + context @ W), W penalised; returns probabilities of other rows, (m, N)."""
    mean, scale = context.mean(axis=0), context.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs, offsets = torch.from_numpy((context - mean) / scale), torch.from_numpy(base)
    wanted, at = torch.from_numpy(items), torch.from_numpy(slots)
    weights = torch.zeros((context.shape[1], base.shape[1]), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        errors = torch.nn.functional.cross_entropy(offsets[at] + inputs @ weights, wanted, reduction="sum")
        total = (errors + 0.5 * _L2 * weights.square().sum()) / len(wanted)
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    fitted = weights.detach().numpy()

    def predict(others: Floats, positions: Positions) -> Floats:
        logits = base[positions] + (others - mean) / scale @ fitted
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    return predict


def _refuse(wrong: NDArray[np.bool_], rule: str, column: str) -> None:
    if wrong.any():
        raise DataError(
            f"{rule}; {wrong.sum()} of {len(wrong)} rows break this", row=int(np.argmax(wrong)), column=column
        )
