"""How much of what a policy would show the logging policy could have shown: of whole slates, and position by position.

Neither needs weights, so both are known where the log has missed the rows that would have carried them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rec.ope.estimate import Floats
from rec.ope.slate_policy import Positions, SlatePolicy, columns_of

_ROUNDING: Final = 1e-12


def supported_slates(
    target: SlatePolicy, logging: SlatePolicy, n_eligible: Positions, *, rng: np.random.Generator
) -> Floats:
    """The share of a target's slates that the log could have shown, one estimate a request, (Q,).

    With s_k the supported share of the target's choices at position k, given the items above, the share of whole slates
    is the mean of s_1 ... s_K over items above that are drawn from the target's supported choices: their probability
    is the target's over s_1 ... s_k-1. Of logged items above, the mean of the product is something else. Under the
    logging policy this share is the mean of the cascade weights w_1:K, which is 1 where nothing is lost. One slate is
    drawn a request, so the mean over Q requests is known to sqrt(share (1 - share) / Q) at worst, and exactly where it
    is 1.

    Under a cap, how many items the drawn slates leave is not in the log, and is taken for what would be left without:
    that moves the part of epsilon / |E| in the share, and nothing where logging has an epsilon, which supports it all.

    Args: n_eligible: items that remain at each position, 0 after the end of a slate, (Q, K). rng: draws the slates.
    """
    rows, in_logging = np.arange(len(n_eligible)), columns_of(logging.candidates, target.candidates)
    remain, logged_remain = target.candidates >= 0, logging.candidates >= 0
    share, shown = np.ones(len(n_eligible)), np.full(n_eligible.shape, -1)
    if (cap := target.cap) is not None:
        groups, logged_groups = cap.of(target.candidates), cap.of(logging.candidates)
        # The drawn items do not close what the logged ones closed: count as if nothing was.
        n_eligible = np.where(n_eligible > 0, np.maximum(n_eligible[:, :1] - np.arange(n_eligible.shape[1]), 1), 0)
    for k in range(n_eligible.shape[1]):
        choices = _supported_choices(target, logging, remain, logged_remain, in_logging, n_eligible[:, k])
        cumulated = choices.cumsum(axis=1)
        share *= _rounded(cumulated[:, -1])
        point = (1 - rng.random(len(rows))) * cumulated[:, -1]
        column = (cumulated < point[:, None]).sum(axis=1)
        m = remain.shape[1]
        own, elsewhere = column < m, (column >= m) & (column < m + logged_remain.shape[1])
        remain[rows[own], column[own]] = False
        logged = in_logging[rows[own], column[own]]
        logged_remain[rows[own][logged >= 0], logged[logged >= 0]] = False
        logged_remain[rows[elsewhere], column[elsewhere] - m] = False
        if cap is not None:
            shown[rows[own], k] = target.candidates[rows[own], column[own]]
            shown[rows[elsewhere], k] = logging.candidates[rows[elsewhere], column[elsewhere] - m]
            closed = cap.closed_by(shown[:, : k + 1])[:, None]
            remain &= (groups != closed) | (closed < 0)
            logged_remain &= (logged_groups != closed) | (closed < 0)
    return share


def supported_positions(target: SlatePolicy, logging: SlatePolicy, slate: Positions, n_eligible: Positions) -> Floats:
    """The share of a target's choices at each position that the log could have made below the items it showed, (Q, K).

    Args: slate: item codes as logged, -1 after the end, (Q, K). n_eligible: as of `supported_slates`.
    """
    in_logging, shares = columns_of(logging.candidates, target.candidates), np.ones(slate.shape)
    gone, logged_gone = (policy.last_positions(slate) for policy in (target, logging))
    for k in range(slate.shape[1]):
        remain, logged_remain = (target.candidates >= 0) & (gone >= k), (logging.candidates >= 0) & (logged_gone >= k)
        choices = _supported_choices(target, logging, remain, logged_remain, in_logging, n_eligible[:, k])
        shares[:, k] = _rounded(choices.sum(axis=1))
    return shares


def _rounded(share: Floats) -> Floats:
    """Shares of which only rounding kept some from being 1."""
    return np.where(share > 1 - _ROUNDING, 1.0, share)


def _supported_choices(
    target: SlatePolicy,
    logging: SlatePolicy,
    remain: NDArray[np.bool_],
    logged_remain: NDArray[np.bool_],
    in_logging: Positions,
    n_eligible: Positions,
) -> Floats:
    """The target's probabilities at a position of what the log could have shown there, (Q, M + L + 1).

    First its own candidates; then the logged ones that are none of its own; then all other items together. After the
    end of a slate the last is 1.

    Args: remain: of the target's candidates, (Q, M). logged_remain: of the logging policy's, (Q, L). in_logging: where
        the former stand among the latter, -1 for nowhere, (Q, M). n_eligible: 0 after the end, (Q,).
    """
    open_ = (n_eligible > 0)[:, None]
    remain, logged_remain = remain & open_, logged_remain & open_
    p, other = target.chances(remain, np.maximum(n_eligible, remain.sum(axis=1)))
    logged, _ = logging.chances(logged_remain, np.maximum(n_eligible, logged_remain.sum(axis=1)))
    # Where no candidate remains the logging policy draws uniformly from everything eligible.
    draws_any = (logging.epsilon > 0) | (logged.sum(axis=1) == 0)
    # Of more candidates than were eligible the log could have shown as many, at best the likeliest of them.
    rank = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1)
    at_best = np.where(rank < n_eligible[:, None], p, 0.0)
    drawable = (in_logging >= 0) & (np.take_along_axis(logged, np.maximum(in_logging, 0), axis=1) > 0)
    own = np.where(draws_any[:, None], at_best, np.where(drawable, p, 0.0))
    shared = columns_of(target.candidates, logging.candidates) >= 0
    elsewhere = np.where((logged > 0) & ~shared & ~draws_any[:, None], other[:, None], 0.0)
    rest = np.where(draws_any, np.maximum(1 - p.sum(axis=1), 0.0), 0.0)
    return np.concatenate([own, elsewhere, rest[:, None]], axis=1)
