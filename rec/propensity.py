"""Propensities for a log that has none: a behaviour policy fitted to what was shown, and how well it is calibrated.

An estimated propensity is worse than a logged one. It can only depend on what the model reads: where the logging policy
knew more of a user than that, weights by these propensities are biased, and no figure here shows it. Intervals take
them as if they were known. Log propensities (`rec.policy`) wherever that is possible.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.errors import ConfigError, DataError
from rec.sampling import runs

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Kind = Literal["softmax", "popularity"]

# An item counts as shown so many times more, so that none has probability 0.
_PRIOR_SHOWS: Final = 0.5
_L2: Final = 1.0
_STEPS: Final = 200
_CONVERGED: Final = 1e-8
# Larger numbers of a context, squared and added up, would overflow; scale them.
_MAX_CONTEXT: Final = 1e6


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
        mean_inverse: mean of 1 / p of what was shown, over the number of items that could be; 1 where the propensities
            are right.
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
    slates: NDArray[Any] | None = None,
    kind: Kind = "softmax",
    n_folds: int = 5,
) -> EstimatedPropensities:
    """The probability of each shown item under a behaviour policy fitted to the rows of other users.

    `softmax`: multinomial logistic regression of the item on the context and the position. `popularity`: a worth of
    each item at each position, whatever the context. With `slates` items are drawn without replacement, those above are
    not drawn again, and the probability is that of the item given those above it, as `rec.policy` logs it: p(a) =
    exp(s_a) / sum of exp(s_b) over the items b that do not stand above. Source: Plackett (1975), doi:10.2307/2346567,
    with scores s of each position. Without `slates` it is that of the item at its position whatever stands above.

    Args:
        items: shown, 0..n_items-1, (n,).
        users: (n,).
        n_items: N; rows times items must fit into memory.
        context: what the logging policy may have gone by, (n, F); softmax needs it.
        positions: in the slate, 0 for the top, (n,). None: all at the top.
        slates: which rows are of one slate, such as the request's id, (n,); all positions of a slate from the top down
            to its last must be there. None: what stands above is not known.
        kind: of model.
        n_folds: of users.

    Warns: PropensityWarning: always, with what it costs and how far off calibration is.
    Raises: DataError: naming row and column for an item, position or context that is none, and for a slate that lacks a
        position or holds a position or an item twice; for rows of a single user. ConfigError: for a kind there is none
        of, or a context that it does not read.
    """
    _check_arguments(items, users, context, positions, slates, kind)
    slots = np.zeros(len(items), np.int64) if positions is None else np.asarray(positions, np.int64)
    _refuse((items < 0) | (items >= n_items), f"expected items in 0..{n_items - 1}", "item")
    _refuse(slots < 0, "expected positions of 0 or more", "position")
    n_slots = int(slots.max()) + 1

    above = _Above.nothing(len(items)) if slates is None else _Above.of(items, slots, slates)

    def probabilities(others: Rows, own: Rows) -> Floats:
        worths = _worths_by_slot(items[others], slots[others], above.select(others), n_items, n_slots)
        if kind == "popularity" or context is None:
            return _without(worths[slots[own]], above.select(own))
        predict = _softmax(context[others], items[others], slots[others], np.log(worths), above.select(others))
        return predict(context[own], slots[own], above.select(own))

    def popular(others: Rows, own: Rows) -> Floats:
        worths = _overall(items[others], above.select(others), n_items)
        free = 1.0 - above.select(own).sums(worths)
        return worths[items[own]] / free

    folds = user_folds(users, n_folds)
    p = cross_fitted(folds, probabilities)
    found = EstimatedPropensities(p[np.arange(len(items)), items], calibrate(p, items, cross_fitted(folds, popular)))
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


def _check_arguments(
    items: NDArray[Any],
    users: NDArray[Any],
    context: NDArray[Any] | None,
    positions: NDArray[Any] | None,
    slates: NDArray[Any] | None,
    kind: str,
) -> None:
    if kind not in get_args(Kind):
        raise ConfigError(f"expected {' or '.join(get_args(Kind))}; found {kind!r}", field="kind")
    if kind == "softmax" and context is None:
        raise DataError(
            'a softmax policy needs the context it may have gone by; without one take kind="popularity"',
            column="context",
        )
    if kind == "popularity" and context is not None:
        raise ConfigError("popularity reads no context: leave it out, or take softmax", field="context")
    if not len(items):
        raise DataError("there are no rows to fit a policy to", column="item")
    columns = {"item": items, "user": users, "context": context, "position": positions, "slate": slates}
    for name, values in columns.items():
        if values is not None and len(values) != len(items):
            raise DataError(f"expected {len(items)} rows, as there are items; found {len(values)}", column=name)
    for name, values in (("item", items), ("position", positions)):
        if values is not None and not np.issubdtype(np.asarray(values).dtype, np.integer):
            raise DataError(
                f"expected whole numbers from 0; found {np.asarray(values).dtype}: number them, as "
                f"np.unique({name}s, return_inverse=True)[1] does",
                column=name,
            )
    if context is not None:
        wide = np.asarray(context).reshape(len(items), -1)
        usual = np.asarray((np.abs(wide) < _MAX_CONTEXT).all(axis=1))
        _refuse(~usual, f"expected numbers between ±{_MAX_CONTEXT:g}", "context")
    if len(np.unique(users)) < 2:
        raise DataError("rows of two users or more are needed: each is judged by a policy of the others", column="user")


def calibrate(p: Floats, items: Positions, popularity: Floats, *, n_bins: int = 10) -> Calibration:
    """Calibration of probabilities that have not seen these rows.

    Bins hold equal sums of probability rather than equal counts of pairs: nearly all pairs are items that are hardly
    ever shown, and would fill every bin. Source of the error: Naeini et al. (2015), doi:10.1609/aaai.v29i1.9602.

    Args: p: of every item, rows sum to 1, (n, N). items: shown, (n,). popularity: p of what was shown by its share
        alone, (n,). n_bins: at most so many.
    """
    n = len(p)
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
        mean_inverse=float((1 / (shown * (p > 0).sum(axis=1))).mean()),
        bins=bins,
        n=n,
    )


@final
@dataclass(frozen=True, slots=True)
class _Above:
    """The items that stand above each of n rows in its slate.

    Attributes: rows, items: pairs of a row and an item above it, (P,) both. n: rows.
    """

    rows: Positions
    items: Positions
    n: int

    @classmethod
    def nothing(cls, n: int) -> "_Above":
        """Rows of which nothing is known to stand above."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), n)

    @classmethod
    def of(cls, items: Positions, slots: Positions, slates: NDArray[Any]) -> "_Above":
        """Of rows of slates, in any order.

        Raises: DataError: as `estimate_propensities`.
        """
        slate = np.unique(slates, return_inverse=True)[1].reshape(-1)
        order = np.lexsort((slots, slate))
        begins = np.append(True, np.diff(slate[order]) != 0)
        top = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        wrong = np.zeros(len(order), np.bool_)
        wrong[order] = slots[order] != np.arange(len(order)) - top
        _refuse(wrong, "expected each position of a slate once, from 0 down to its last", "position")
        rows, above = runs(top, np.arange(len(order)))
        pairs = cls(order[rows], items[order[above]], len(order))
        again = np.zeros(len(order), np.bool_)
        again[pairs.rows[pairs.items == items[pairs.rows]]] = True
        _refuse(again, "expected an item once in a slate", "item")
        return pairs

    def select(self, rows: Rows) -> "_Above":
        """Of some rows, numbered anew."""
        place = np.full(self.n, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.rows] >= 0
        return _Above(place[self.rows[kept]], self.items[kept], len(rows))

    def sums(self, worths: Floats) -> Floats:
        """The worth of all that stands above each row, (N,) to (n,)."""
        return np.bincount(self.rows, worths[self.items], self.n).astype(np.float64)


def _without(worths: Floats, above: _Above) -> Floats:
    """Probabilities of the items that do not stand above, (n, N)."""
    p = worths.copy()
    p[above.rows, above.items] = 0.0
    return p / p.sum(axis=1, keepdims=True)


def _overall(items: Positions, above: _Above, n_items: int) -> Floats:
    return _worths(items, above, np.full(n_items, _PRIOR_SHOWS))


def _worths_by_slot(items: Positions, slots: Positions, above: _Above, n_items: int, n_slots: int) -> Floats:
    """The worth of each item at each position, shrunk to its overall worth by half as many shows as items."""
    prior = _PRIOR_SHOWS * n_items * _overall(items, above, n_items)
    rows = [np.flatnonzero(slots == slot) for slot in range(n_slots)]
    return np.stack([_worths(items[own], above.select(own), prior) for own in rows])


def _worths(items: Positions, above: _Above, prior: Floats) -> Floats:
    """The likeliest worths of items, which sum to 1, when each row draws by worth among those not above it, (N,).

    An iteration sets worth_a = shows of a / sum over rows in which a could be drawn of 1 / worth of all that could.
    Where nothing stands above this is the share of each item, at once.
    Source: Hunter (2004), MM algorithms for Bradley-Terry models, section 5, doi:10.1214/aos/1079120141.

    Args: prior: further shows of each item, in rows with nothing above, (N,).
    """
    shows = np.bincount(items, minlength=len(prior)) + prior
    worths = shows / shows.sum()
    for _ in range(_STEPS if len(above.rows) else 0):
        rate = 1.0 / (1.0 - above.sums(worths))
        could = rate.sum() + prior.sum() - np.bincount(above.items, rate[above.rows], len(prior))
        found = shows / could
        found /= found.sum()
        moved = np.abs(found / worths - 1).max()
        worths = found
        if moved < _CONVERGED:
            break
    return worths


def _softmax(
    context: Floats, items: Positions, slots: Positions, base: Floats, above: _Above
) -> Callable[[Floats, Positions, _Above], Floats]:
    """P = softmax(base + context @ W + b of the position) over what does not stand above, W and b penalised.

    Returns: probabilities of other rows, (m, N).
    """
    mean, scale = context.mean(axis=0), context.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    at_slot = np.eye(len(base))

    def design(rows: Floats, positions: Positions) -> Floats:
        return np.column_stack([(rows - mean) / scale, at_slot[positions]])

    inputs, offsets = torch.from_numpy(design(context, slots)), torch.from_numpy(base)
    wanted, at = torch.from_numpy(items), torch.from_numpy(slots)
    taken = torch.from_numpy(above.rows), torch.from_numpy(above.items)
    never = torch.tensor(-torch.inf, dtype=torch.float64)
    weights = torch.zeros((inputs.shape[1], base.shape[1]), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = (offsets[at] + inputs @ weights).index_put(taken, never)
        errors = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        total = (errors + 0.5 * _L2 * weights.square().sum()) / len(wanted)
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    fitted = weights.detach().numpy()

    def predict(others: Floats, positions: Positions, above_others: _Above) -> Floats:
        logits = base[positions] + design(others, positions) @ fitted
        logits[above_others.rows, above_others.items] = -np.inf
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    return predict


def _refuse(wrong: NDArray[np.bool_], rule: str, column: str) -> None:
    if wrong.any():
        raise DataError(
            f"{rule}; {wrong.sum()} of {len(wrong)} rows break this", row=int(np.argmax(wrong)), column=column
        )
