"""What a log cannot tell: refusals where nothing can be estimated, warnings where little can."""

import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from rec.errors import SupportError
from rec.ope.estimate import Floats, Integers, Terms, std_error

MIN_ESS: Final = 100.0
MAX_WEIGHT_SHARE: Final = 0.05
MIN_SUPPORT: Final = 0.95
# Standard errors between the mean weight and 1 beyond which something must be wrong.
MEAN_WEIGHT_ERRORS: Final = 4.0
# And the difference that rounding may make, of probabilities written with five digits or in float32.
MEAN_WEIGHT_ROUNDING: Final = 1e-4
# What rounding may add to a probability of 1.
_ROUNDING: Final = 1e-9
_NAMED_ROWS: Final = 5


class OverlapWarning(UserWarning):
    """The log holds little about the policy under evaluation; the estimate may be far off, and its error too small."""


def refuse_improbable(
    values: Floats, name: str, *, above_zero: bool, file: str | None = None, row_in_file: Callable[[int], int] = int
) -> None:
    """Refuses values that are no probabilities.

    Args:
        values: rows first, (n, ...).
        name: of the column.
        above_zero: whether 0 is refused, too.
        file: which they are from.
        row_in_file: what it calls each row.

    Raises: SupportError: naming how many and the first rows.
    """
    wrong = ~((values > 0 if above_zero else values >= 0) & (values <= 1 + _ROUNDING))
    if not wrong.any():
        return
    rows = np.flatnonzero(wrong.reshape(len(values), -1).any(axis=1))
    first = values[rows[0]][wrong[rows[0]]] if values.ndim > 1 else values[rows[:1]]
    raise SupportError(
        f"{name} must be {'> 0' if above_zero else '>= 0'} and <= 1; {len(rows)} of {len(values)} rows are not. "
        f"First: {first[0]:.12g} in row {_named([row_in_file(int(row)) for row in rows[:_NAMED_ROWS]], len(rows))}. "
        + (
            "What was shown had a positive probability: correct the log, or leave out what was not drawn"
            if above_zero
            else "Give the probability with which the policy under evaluation shows the logged item"
        ),
        file=file,
        row=row_in_file(int(rows[0])),
        column=name,
    )


def support_share(target: Floats, logging: Floats, *, min_support: float = MIN_SUPPORT) -> float:
    """The share of the target policy's choices that the logging policy could have made.

    Args:
        target: probabilities of all actions under the policy under evaluation, (n, A).
        logging: and under the logging policy, (n, A).
        min_support: share below which there is nothing to estimate.

    Returns: mean over rows of the sum of target probabilities where logging is above 0.
    Raises: SupportError: when the share is below min_support, naming the first rows with unsupported choices.
    """
    return refuse_unsupported(np.where(logging > 0, target, 0.0).sum(axis=1), min_support=min_support)


def refuse_unsupported(
    per_row: Floats,
    *,
    min_support: float = MIN_SUPPORT,
    of: str = "choices",
    file: str | None = None,
    name_of: Callable[[int], str] | None = None,
) -> float:
    """The mean of the share of supported choices of each row, (n,), refused below min_support.

    Args: of: what the shares are of. file: which they are from. name_of: what a row is called there, such as a request
        and a position.
    """
    share = float(min(per_row.mean(), 1.0))
    if share >= min_support:
        return share
    rows = np.flatnonzero(per_row < 1 - _ROUNDING)
    names = [str(row) if name_of is None else name_of(int(row)) for row in rows[:_NAMED_ROWS]]
    raise SupportError(
        f"the logging policy must be able to show what the target policy shows; it never could for {1 - share:.1%} of "
        f"the target's {of}, in {len(rows)} of {len(per_row)} rows (at most {1 - min_support:.1%} is allowed). "
        f"First: {'row ' if name_of is None else ''}{_named(names, len(rows))}. Log with epsilon > 0, or evaluate a "
        "policy that stays within what was logged",
        file=file,
        row=int(rows[0]) if name_of is None else None,
    )


def refuse_low_support(support: float | None) -> None:
    """Refuses a share of supported choices below MIN_SUPPORT; None, where it is not known, is none.

    Raises: SupportError.
    """
    if support is not None and support < MIN_SUPPORT:
        raise SupportError(
            f"the logging policy could have shown {support:.1%} of what the target policy shows, as far as this "
            f"estimator needs it; at least {MIN_SUPPORT:.0%} is required: log with epsilon > 0, or evaluate a policy "
            "that stays within what was logged",
            column="support",
        )


def warn_of_overlap(
    weights: Floats,
    codes: Integers,
    n_clusters: int,
    *,
    ess: float,
    support: float | None,
    reproduced: bool = False,
    instead: str | None = None,
    min_ess: float = MIN_ESS,
) -> None:
    """Warns where the weights say that the log is nearly silent about the target policy.

    Args:
        weights: of rows or slates, (n,).
        codes: user of each row, (n,).
        n_clusters: number of users.
        ess: effective sample size of the weights.
        support: share of supported choices, None where unknown.
        reproduced: whether the propensities are known to be those of the policy that logged.
        instead: what else to look at where few rows carry the weight.
        min_ess: effective sample size below which it warns.

    Warns: OverlapWarning: effective sample size below min_ess; one row carries more than 5% of all weight; the mean
        weight, which is 1 in expectation where propensities are right and cover the target, is more than four
        standard errors, and more than rounding, from 1; support below 1.
    """
    n, total = len(weights), float(weights.sum())
    if ess < min_ess:
        _warn(
            f"effective sample size {ess:.1f} of {n} rows (below {min_ess:g}): hardly any row is one that the target "
            "policy would have made; intervals by standard error are too narrow here"
        )
    if total > 0 and weights.max() > MAX_WEIGHT_SHARE * total:
        row = int(weights.argmax())
        _warn(
            f"row {row} carries {weights[row] / total:.1%} of all weight (weight {shown_weight(weights[row])}): the "
            "estimate hangs on it; collect more, or ask about a policy nearer to the logged one"
            + (f", or {instead}" if instead else "")
        )
    error = std_error(Terms.mean(weights), codes, n_clusters)
    if error is not None and abs(total / n - 1) > max(MEAN_WEIGHT_ERRORS * error, MEAN_WEIGHT_ROUNDING):
        _warn(
            f"the mean weight is {total / n:#.3g} ± {error:#.3g} where 1 is expected: "
            + _named_causes(total / n, error, few=ess < min_ess, support=support, reproduced=reproduced)
        )
    if support is not None and support < 1 - _ROUNDING:
        _warn(
            f"{1 - support:.2%} of the target policy's choices could never have been logged; the estimate leaves them "
            "out, or trusts the reward model for them where it has one"
        )


def shown_weight(weight: float) -> str:
    """A weight as text, also a small one."""
    return f"{weight:.1f}" if weight >= 1 else f"{weight:.3g}"


def _named_causes(mean: float, error: float, *, few: bool, support: float | None, reproduced: bool) -> str:
    """Why a mean weight may be far from 1, the likeliest cause first, none that is known to be absent."""
    wrong = [] if reproduced else ["the propensities are not those of the policy that logged"]
    if mean > 1:
        return "; or ".join(wrong or ["the largest weights were drawn oftener than is to be expected"])
    known = support is not None and support < 1 - _ROUNDING
    unseen = ["the target policy shows what the log never could"] if known or support is None else []
    rare = ["the rows in which the target policy would have the largest weights are too rare to have been drawn"]
    # With a share of support the mean is that share on average.
    if support is not None and known and mean >= support - MEAN_WEIGHT_ERRORS * error:
        return "; or ".join([*unseen, *wrong])
    if few:
        rare[0] += ", as is usual at this effective sample size, and the error is too small"
        return "; or ".join([*rare, *unseen, *wrong] if known else [*rare, *wrong, *unseen])
    return "; or ".join([*unseen, *rare, *wrong] if known else [*wrong, *unseen, *rare])


def _warn(message: str) -> None:
    warnings.warn(message, OverlapWarning, stacklevel=3)


def _named(first: Sequence[int | str], n: int) -> str:
    """The first of n names."""
    return ", ".join(map(str, first)) + (", ..." if n > len(first) else "")
