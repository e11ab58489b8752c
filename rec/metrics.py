"""How good lists of items are: metrics per user, their means with intervals, and differences paired by user.

Lists are top-k lists (B, K), best first, with -1 where a list is shorter. Relevant items are one run a user: those of
user b are items[indptr[b]:indptr[b + 1]], without repeats. Every user must have at least one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rec.errors import ConfigError, DataError

Hits = NDArray[np.bool_]
Floats = NDArray[np.float64]
Positions = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class MetricEstimate:
    """The mean of a metric over users, with Student's interval.

    Attributes:
        value: the mean.
        std_error: standard error of the mean; None with fewer than two users.
        low, high: the interval's ends; None with fewer than two users.
        n: number of users.
    """

    value: float
    std_error: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """The estimate as the command line prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of a - b over the same users, with Student's interval and two-sided p-value.

    With fewer than two users nothing can be said: low and high are None and p_value is 1.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float

    def to_json(self) -> dict[str, float | None]:
        """The difference as the command line prints it."""
        return asdict(self)


def hits(lists: Positions, indptr: Positions, relevant: Positions) -> Hits:
    """Which entries of the lists are relevant.

    Args:
        lists: item positions, (B, K); -1 is never relevant.
        indptr: bounds of each user's run in `relevant`, (B + 1,).
        relevant: relevant item positions, (nnz,), in any order.

    Returns: (B, K).
    Raises: DataError: when a list names an item twice, which would count it twice.
    """
    users, k = lists.shape
    if len(indptr) != users + 1:
        raise DataError(f"{users} lists need {users + 1} bounds of relevant items; {len(indptr)} were given")
    _refuse_repeats(lists)
    if not len(relevant) or not k:
        return np.zeros(lists.shape, np.bool_)
    width = int(max(lists.max(initial=0), relevant.max())) + 1
    owners = np.repeat(np.arange(users, dtype=np.int64), np.diff(indptr))
    wanted = np.sort(owners * width + relevant)
    keys = np.arange(users, dtype=np.int64)[:, None] * width + np.maximum(lists, 0)
    found = wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys
    return found & (lists >= 0)


def recall(hit: Hits, n_relevant: Positions, k: int) -> Floats:
    """Share of the relevant items that are among the first k. Shapes: (B, K), (B,) -> (B,)."""
    return np.asarray(hit[:, :k].sum(axis=1) / n_relevant, np.float64)


def precision(hit: Hits, n_relevant: Positions, k: int) -> Floats:
    """Share of k that is relevant; short lists are divided by k too. Shapes: (B, K), (B,) -> (B,)."""
    return np.asarray(hit[:, :k].sum(axis=1) / k, np.float64)


def hit_rate(hit: Hits, n_relevant: Positions, k: int) -> Floats:
    """1 where any of the first k is relevant. Shapes: (B, K), (B,) -> (B,)."""
    return np.asarray(hit[:, :k].any(axis=1), np.float64)


def mrr(hit: Hits, n_relevant: Positions, k: int) -> Floats:
    """1 / rank of the first relevant item, 0 when it is not among the first k. Shapes: (B, K), (B,) -> (B,)."""
    first = hit[:, :k].argmax(axis=1)
    return np.where(hit[:, :k].any(axis=1), 1.0 / (first + 1), 0.0)


def ndcg(hit: Hits, n_relevant: Positions, k: int) -> Floats:
    """Discounted gain over that of an ideal list, which holds min(k, relevant) relevant items first.

    sum over ranks r <= k of hit_r / log2(r + 1), over the same sum for the ideal.
    Source: Järvelin and Kekäläinen (2002), doi:10.1145/582415.582418, with binary gain. Shapes: (B, K), (B,) -> (B,).
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    gained = np.where(hit[:, :k], discount, 0.0)
    return gained.sum(axis=1) / ideal


METRICS: Final[dict[str, Callable[[Hits, Positions, int], Floats]]] = {
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": mrr,
    "hit_rate": hit_rate,
}
CATALOGUE_METRICS: Final = ("coverage", "novelty")
# Of intervals.
LEVEL: Final = 0.95


def parse_metric(name: str) -> tuple[str, int]:
    """`ndcg@10` as ("ndcg", 10).

    Raises: ConfigError: when there is no such metric, or k is no whole number from 1 to 999999.
    """
    kind, _, k = name.partition("@")
    known = (*METRICS, *CATALOGUE_METRICS)
    if kind not in known or not re.fullmatch("[1-9][0-9]{0,5}", k):
        raise ConfigError(f"no metric {name!r}; write one of {', '.join(known)}, then @ and a number, as in ndcg@10")
    return kind, int(k)


def per_user(lists: Positions, indptr: Positions, relevant: Positions, names: Sequence[str]) -> dict[str, Floats]:
    """Metrics of each user's list.

    Args:
        lists: item positions, best first, -1 where a list is shorter, (B, K).
        indptr: bounds of each user's run in `relevant`, (B + 1,).
        relevant: relevant item positions, (nnz,).
        names: metrics of METRICS with their k <= K, such as `ndcg@10`.

    Returns: by name, (B,).
    Raises: ConfigError: for a name that is none, or a k above K. DataError: for a user without relevant items.
    """
    n_relevant = np.diff(indptr)
    if (n_relevant < 1).any():
        row = int(np.flatnonzero(n_relevant < 1)[0])
        raise DataError("every user judged needs a relevant item; leave out those without", row=row)
    hit = hits(lists, indptr, relevant)
    values: dict[str, Floats] = {}
    for name in names:
        kind, k = parse_metric(name)
        if kind not in METRICS:
            raise ConfigError(f"{name} is a property of the catalogue, not of one user's relevant items")
        if k > lists.shape[1]:
            raise ConfigError(f"{name} needs lists of {k} items; these hold {lists.shape[1]}")
        values[name] = METRICS[kind](hit, n_relevant, k)
    return values


def novelty(lists: Positions, item_users: Positions, n_users: int, k: int) -> Floats:
    """Mean surprise of the first k items, in bits: -log2 of the share of users who know an item.

    Source: Zhou et al. (2010), self-information, doi:10.1073/pnas.1000488107. Differs from it in: an item that nobody
    knows counts as known to one user, so that it stays finite.

    Args:
        lists: item positions, -1 where a list is shorter, (B, K).
        item_users: training users who know each item, (N,).
        n_users: number of training users.
        k: length judged.

    Returns: (B,), 0 for an empty list.
    """
    bits = np.log2(n_users) - np.log2(np.maximum(item_users, 1))
    shown = lists[:, :k] >= 0
    surprise = np.where(shown, bits[np.maximum(lists[:, :k], 0)], 0.0)
    return surprise.sum(axis=1) / np.maximum(shown.sum(axis=1), 1)


def coverage(lists: Positions, n_items: int, k: int) -> MetricEstimate:
    """Share of the catalogue that is among the first k of at least one user.

    The standard error is the jackknife's over users: leaving user b out takes u_b / n_items away, where u_b counts the
    items that b alone was shown; its square is (B - 1) / B * sum of (u_b - mean)^2 / n_items^2. Source: Efron and
    Stein (1981), doi:10.1214/aos/1176345462: on average it is not below the truth.

    Args:
        lists: item positions, -1 where a list is shorter, without repeats in a row, (B, K).
        n_items: size of the catalogue.
        k: length judged.
    """
    shown = lists[:, :k]
    _refuse_repeats(shown)
    counts = np.bincount(shown[shown >= 0], minlength=n_items)
    value = float((counts > 0).sum() / n_items)
    users = len(lists)
    if users < 2:
        return MetricEstimate(value, None, None, None, users)
    alone = ((shown >= 0) & (counts[np.maximum(shown, 0)] == 1)).sum(axis=1)
    std_error = float(np.sqrt((users - 1) / users * np.square(alone - alone.mean()).sum()) / n_items)
    return _interval(value, std_error, users)


def mean_over_users(values: Floats) -> MetricEstimate:
    """The mean of a metric over users, its standard error and interval. Shape: (B,)."""
    n = len(values)
    if n == 0:
        raise DataError("no users to take a mean over; the period holds no user with a relevant item")
    if n == 1:
        return MetricEstimate(float(values[0]), None, None, None, 1)
    return _interval(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)), n)


def paired_difference(a: Floats, b: Floats) -> PairedDifference:
    """Student's paired test by user: is the mean of a - b zero?

    The p-value is of this pair alone, not corrected for how many pairs are looked at.

    Args:
        a: metric of the same users under one model, (B,).
        b: and under the other, in the same order, (B,).
    """
    if a.shape != b.shape:
        raise DataError(f"a paired test needs the same users on both sides; found {len(a)} and {len(b)}")
    mean = mean_over_users(a - b)
    if mean.std_error is None:
        return PairedDifference(mean.value, None, None, 1.0)
    if mean.std_error == 0.0:
        return PairedDifference(mean.value, mean.low, mean.high, 1.0 if mean.value == 0.0 else 0.0)
    p_value = 2.0 * float(stats.t.sf(abs(mean.value) / mean.std_error, mean.n - 1))  # pyright: ignore[reportUnknownMemberType]
    return PairedDifference(mean.value, mean.low, mean.high, p_value)


def _interval(value: float, std_error: float, n: int) -> MetricEstimate:
    quantile = float(stats.t.ppf(0.5 + LEVEL / 2.0, n - 1))  # pyright: ignore[reportUnknownMemberType]
    half = quantile * std_error
    return MetricEstimate(value, std_error, value - half, value + half, n)


def _refuse_repeats(lists: Positions) -> None:
    ordered = np.sort(lists, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeated.any():
        row, column = np.argwhere(repeated)[0]
        raise DataError(f"a list names item {ordered[row, column]} twice", row=int(row))


def format_estimate(estimate: Mapping[str, Any]) -> str:
    """`.3056 ± .0077` of an estimate's JSON; without the error where there is none, as with a single user."""
    error = estimate["std_error"]
    return f"{estimate['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def format_difference(difference: Mapping[str, Any]) -> str:
    """`+.0143 [+.0092, +.0194]` of a paired difference's JSON; without the interval where there is none."""
    low, high = difference["low"], difference["high"]
    return f"{difference['difference']:+.4f}" + ("" if low is None else f" [{low:+.4f}, {high:+.4f}]")
