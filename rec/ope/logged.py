"""What estimators read: rows of a log, with what another policy would have done in them."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.errors import DataError
from rec.ope.estimate import Floats, cluster_codes
from rec.ope.support import refuse_improbable


@final
@dataclass(frozen=True, slots=True)
class LoggedActions:
    """n rounds in each of which one item was shown, and the probabilities of showing it.

    Attributes:
        rewards: (n,).
        propensities: probability with which the logging policy showed the item, in (0, 1], (n,).
        target_p: probability with which the policy under evaluation would have, (n,).
        clusters: users; rows of one user may depend on each other. None: every row is its own user. (n,).
        q_logged: predicted reward of the item shown, by a model that has not seen the user, (n,), or None.
        q_target: the predictions' mean under the policy under evaluation, (n,), or None.
        support: share of the target's choices that the logging policy could have made, or None where unknown.
        weights: target_p / propensities, (n,).
    """

    rewards: Floats
    propensities: Floats
    target_p: Floats
    clusters: NDArray[Any] | None = None
    q_logged: Floats | None = None
    q_target: Floats | None = None
    support: float | None = None
    weights: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = real_numbers(self.rewards, "rewards").size
        _require(self, ("rewards", "propensities", "target_p", "q_logged", "q_target"), (n,))
        _require_clusters(self.clusters, n)
        _require_share(self.support)
        object.__setattr__(self, "weights", _ratio(self.target_p, self.propensities, ""))
        _refuse_vast_products(self.weights, self.rewards, self.q_logged, self.q_target)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def predictions(self) -> tuple[Floats, Floats]:
        """q_logged and q_target.

        Raises: DataError: when there are none.
        """
        return _predictions(self.q_logged, self.q_target)

    def codes(self) -> tuple[NDArray[np.int64], int]:
        """Users numbered from 0, (n,), and how many there are."""
        return _codes(self.clusters, len(self))

    def select(self, rows: NDArray[Any]) -> Self:
        """Some of the rows."""
        return replace(self, **{name: _rows(getattr(self, name), rows) for name in _PER_ROW})


@final
@dataclass(frozen=True, slots=True)
class LoggedSlates:
    """n slates of up to K items, and the probability of each item given the items above it.

    A NaN propensity marks where a short slate has ended; nothing else is read there.

    Attributes:
        rewards: of each position, (n, K).
        propensities: of the logging policy, given the items above, (n, K).
        target_p: of the policy under evaluation, given the same items above, (n, K).
        clusters: users, (n,). None: every slate is its own user.
        q_logged: predicted gain of this position and all below, given the slate down to here and the policy under
            evaluation below, by a model that has not seen the user, (n, K), or None.
        q_target: its mean over the item at this position under the policy under evaluation, (n, K), or None.
        marginal_propensities, marginal_target_p: probability of the item at its position whatever stands above it,
            under either policy, (n, K), or None; the position-wise form needs them.
        position_weights: what a reward counts at each position, (K,). None: 1.
        support: share of the target's slates that the logging policy could have shown, or None where unknown: what
            the cascade forms can tell of. It is what w_1:K is on average, and the product of what is supported at each
            position below items that the target itself would show; of ten positions that lose 4% each a third is lost.
        marginal_support: share of the target's choices at single positions that the logging policy could have made, or
            None where unknown: what the position-wise forms can tell of.
        reproduced: whether the propensities were computed again from what the log says of its policy.
        weights: target_p / propensities, 1 after the end of a slate, (n, K).
        gains: rewards times position_weights, 0 after the end of a slate, (n, K).
    """

    rewards: Floats
    propensities: Floats
    target_p: Floats
    clusters: NDArray[Any] | None = None
    q_logged: Floats | None = None
    q_target: Floats | None = None
    marginal_propensities: Floats | None = None
    marginal_target_p: Floats | None = None
    position_weights: Floats | None = None
    support: float | None = None
    marginal_support: float | None = None
    reproduced: bool = False
    weights: Floats = field(init=False, repr=False)
    gains: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        propensities = real_numbers(self.propensities, "propensities")
        if propensities.ndim != 2 or not propensities.shape[1]:
            raise DataError(
                f"slates need arrays of (n, K), K from 1; found shape {propensities.shape}", column="propensities"
            )
        shown = ~np.isnan(propensities)
        resumed = (shown[:, 1:] & ~shown[:, :-1]).any(axis=1)
        if resumed.any():
            raise DataError("a slate has an item below its end", row=int(np.argmax(resumed)), column="propensities")
        arrays = {"rewards": 0.0, "propensities": 1.0, "target_p": 1.0, "q_logged": 0.0, "q_target": 0.0}
        arrays |= {"marginal_propensities": 1.0, "marginal_target_p": 1.0}
        for name, after_the_end in arrays.items():
            given = getattr(self, name)
            values = None if given is None else real_numbers(given, name)
            if values is not None and values.shape == shown.shape:
                object.__setattr__(self, name, np.where(shown, values, after_the_end))
        _require(self, tuple(arrays), shown.shape)
        _require(self, ("position_weights",), shown.shape[1:])
        _require_clusters(self.clusters, len(shown))
        _require_share(self.support)
        _require_share(self.marginal_support, "marginal_support")
        counts = 1.0 if self.position_weights is None else refuse_negative(self.position_weights)
        object.__setattr__(self, "weights", _ratio(self.target_p, self.propensities, ""))
        with np.errstate(over="ignore"):
            object.__setattr__(self, "gains", self.rewards * counts)
            whole = self.weights.cumprod(axis=1)
        _refuse_vast_products(whole, self.gains, self.q_logged, self.q_target)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def predictions(self) -> tuple[Floats, Floats]:
        """q_logged and q_target.

        Raises: DataError: when there are none.
        """
        return _predictions(self.q_logged, self.q_target)

    @property
    def marginal_weights(self) -> Floats:
        """Ratio of the marginals, (n, K).

        Raises: DataError: when there are none. SupportError: when one is 0 under the logging policy.
        """
        if self.marginal_propensities is None or self.marginal_target_p is None:
            raise DataError(
                "position_wise needs the probability of an item at its position whatever stands above it: give "
                "marginal_propensities and marginal_target_p (rec.ope.marginals estimates them), or take cascade"
            )
        weights = _ratio(self.marginal_target_p, self.marginal_propensities, "marginal ")
        _refuse_vast_products(weights, self.gains)
        return weights

    def codes(self) -> tuple[NDArray[np.int64], int]:
        """Users numbered from 0, (n,), and how many there are."""
        return _codes(self.clusters, len(self))

    def select(self, rows: NDArray[Any]) -> Self:
        """Some of the slates."""
        return replace(self, **{name: _rows(getattr(self, name), rows) for name in _PER_ROW_OF_SLATES})


_PER_ROW: Final = ("rewards", "propensities", "target_p", "clusters", "q_logged", "q_target")
_PER_ROW_OF_SLATES: Final = (*_PER_ROW, "marginal_propensities", "marginal_target_p")
# A row's weight times its reward may not be more: squares of such numbers can still be added up.
LARGEST: Final = 1e100


def _rows(values: NDArray[Any] | None, rows: NDArray[Any]) -> NDArray[Any] | None:
    return None if values is None else values[rows]


def is_real(value: object) -> bool:
    """Whether it is one real number, NaN and infinity among them."""
    return isinstance(value, int | float | np.integer | np.floating)


def real_numbers(given: Any, name: str) -> Floats:
    """Values as float64, which neither cuts off an imaginary part nor reads texts.

    Raises: DataError: naming the column.
    """
    try:
        values = np.asarray(given)
        if values.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in values.flat):
            found = "texts"
        elif values.dtype.kind in "biufO":
            return values.astype(np.float64)
        else:
            found = f"values of type {values.dtype}"
    except (TypeError, ValueError, OverflowError) as error:
        found = str(error)
    raise DataError(f"an array of real numbers is required; found {found}", column=name)


def _require(logged: object, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Makes arrays float64 and refuses those of another shape or with values that are not finite."""
    for name in names:
        given = getattr(logged, name)
        if given is None:
            continue
        values = real_numbers(given, name)
        if values.shape != shape:
            raise DataError(f"expected shape {shape}, as the rewards have; found {values.shape}", column=name)
        wrong = ~np.isfinite(values)
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            raise DataError(f"values must be finite; {wrong.sum()} of {values.size} are not", row=row, column=name)
        object.__setattr__(logged, name, values)


def _require_clusters(clusters: NDArray[Any] | None, n: int) -> None:
    if n == 0:
        raise DataError("there are no rows to estimate from")
    if clusters is None:
        return
    if np.shape(clusters) != (n,):
        raise DataError(f"expected one user per row, ({n},); found {np.shape(clusters)}", column="clusters")
    users = np.asarray(clusters)
    missing = pd.isna(users)
    if missing.any():
        raise DataError(
            f"every row needs its user, as rows of one user depend on each other; {missing.sum()} of {n} have none: "
            "leave them out, or give no clusters where every row is a user of its own",
            row=int(np.argmax(missing)),
            column="clusters",
        )
    if users.dtype == object and not all(isinstance(user, str) for user in users):
        try:
            cluster_codes(users)
        except TypeError as error:
            raise DataError(f"users must be of one type; {error}: make texts of all", column="clusters") from error


def _require_share(support: float | None, name: str = "support") -> None:
    if support is not None and not (is_real(support) and 0 <= support <= 1):
        raise DataError(
            f"{name} is a share of the target policy's choices, from 0 to 1, or None where unknown; found {support!r}",
            column=name,
        )


def refuse_negative(position_weights: Floats) -> Floats:
    """What a reward counts at each position, (K,), as given.

    Raises: DataError: for a weight below 0.
    """
    wrong = ~(position_weights >= 0)
    if wrong.any():
        position = int(np.argmax(wrong))
        raise DataError(
            f"a reward counts 0 or more at a position; found {position_weights[position]} at position {position}",
            column="position_weights",
        )
    return position_weights


def refuse_vast(values: Floats, name: str) -> None:
    """Refuses numbers whose squares cannot be added up.

    Args: values: (n, ...), NaN where there is none. name: of the column.
    Raises: DataError: naming the first such row.
    """
    wrong = (np.abs(values) > LARGEST).reshape(len(values), -1)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        raise DataError(
            f"numbers between -{LARGEST:g} and {LARGEST:g} are required, whose squares can be added up; found "
            f"{values.reshape(len(values), -1)[row][wrong[row]][0]}: give rewards in another unit",
            row=row,
            column=name,
        )


def _refuse_vast_products(weights: Floats, rewards: Floats, *predictions: Floats | None) -> None:
    """Refuses rows, the first axis of all, whose weights times rewards or predictions are too large to compute with."""
    refuse_vast(rewards, "rewards")
    for name, values in zip(("q_logged", "q_target"), predictions, strict=False):
        if values is not None:
            refuse_vast(values, name)
    largest = np.maximum.reduce([np.abs(values) for values in (rewards, *predictions) if values is not None])
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~(weights * np.maximum(largest, 1.0) <= LARGEST).reshape(len(weights), -1).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"a weight (target_p / propensity, of a slate their product) times its reward or prediction must be at "
            f"most {LARGEST:g}, so that squares can be added up; found a weight of {weights[row].max():.3g} beside "
            f"{largest[row].max():.3g} ({wrong.sum()} of {len(wrong)} rows): the target policy is too far from the "
            "logged one for these rows, or their propensities are wrong; leave them out",
            row=row,
            column="propensity",
        )


def _ratio(target_p: Floats, propensities: Floats, kind: str) -> Floats:
    """Importance weights of any shape, whose first axis is that of rows."""
    refuse_improbable(propensities, f"{kind}propensity", above_zero=True)
    refuse_improbable(target_p, f"{kind}target_p", above_zero=False)
    with np.errstate(over="ignore"):  # `_refuse_vast_products` names the row
        return target_p / propensities


def _predictions(q_logged: Floats | None, q_target: Floats | None) -> tuple[Floats, Floats]:
    if q_logged is None or q_target is None:
        raise DataError(
            "this estimator needs predicted rewards: give q_logged and q_target; rec.ope.reward_model has models"
        )
    return q_logged, q_target


def _codes(clusters: NDArray[Any] | None, n: int) -> tuple[NDArray[np.int64], int]:
    return (np.arange(n), n) if clusters is None else cluster_codes(clusters)
