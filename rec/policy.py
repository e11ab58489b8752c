"""Choosing a slate so that the probability of every choice is known exactly.

Position by position, from the top: with probability epsilon an item is drawn uniformly out of everything eligible,
otherwise by a softmax over the ranked candidates that remain. Serving, the simulators and the off-policy estimates
all call the functions of this module.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rec.eligibility import BoolArray, Eligible, GroupCap, IntArray, RemainingItems
from rec.policy_checks import (
    FloatArray,
    Positions,
    check_candidates,
    check_parameters,
    masked_scores,
    refuse_repeats,
    refuse_rows,
    whole_numbers,
)

# Softmax weights are relative to the best score of all candidates. Where those that remain weigh less than this in
# sum, they are taken anew relative to the best that remains, so that nothing underflows and no digits are lost.
_WEIGHT_FLOOR = 2e-9
# Beyond this many temperatures from the best, rounding could make two random keys equal.
_KEY_RANGE = 1e6
# Bytes of comparisons made at once, so that they stay in the cache.
_COMPARISONS = 2**20


@final
@dataclass(frozen=True, slots=True)
class Slate:
    """Slates of B users, top first; positions after the last eligible item are empty.

    Attributes:
        item_ids: catalogue positions, -1 where the slate is short, int32, (B, K).
        propensity: probability of the item at its position given the items above it, NaN where empty, (B, K).
        n_eligible: eligible items not shown above the position, 0 where empty, int64, (B, K).
        column: where the item stands in the candidate list, -1 for an item that was no candidate, int64, (B, K).
    """

    item_ids: NDArray[np.int32]
    propensity: FloatArray
    n_eligible: IntArray
    column: IntArray

    @property
    def short(self) -> BoolArray:
        """Whether a slate ended before its last position, (B,)."""
        return np.any(self.item_ids < 0, axis=1)


def position_probabilities(
    scores: ArrayLike, candidate_mask: ArrayLike, n_eligible: ArrayLike, *, epsilon: float, temperature: float
) -> tuple[FloatArray, FloatArray]:
    """The probability of every eligible item at one position.

    p(a) = epsilon / |E| + (1 - epsilon) softmax(score / temperature)(a) for a candidate, epsilon / |E| for another
    eligible item; 1 / |E| for all where no candidate remains. At temperature 0 the softmax is uniform over the exact
    maxima, its limit.

    Args:
        scores: float64, finite wherever the mask holds, (B, M).
        candidate_mask: candidates that remain, all of them eligible, booleans, (B, M).
        n_eligible: eligible items that remain, |E|, candidates included, whole numbers, (B,).
        epsilon: share of uniform draws, 0 to 1.
        temperature: 0 or more, in units of the scores.

    Returns: probability of each candidate, 0 outside the mask, (B, M); probability of any one other eligible item,
        (B,). Where |E| is 0 both are 0.

    Raises: ScoreError: when a score is not finite, or epsilon or temperature is out of range. ValueError: when there
        are fewer eligible items than candidates, or the arrays are of other shapes or types.
    """
    check_parameters(epsilon, temperature)
    given = np.asarray(candidate_mask)
    if given.size and given.dtype != np.bool_:
        raise ValueError(f"candidate_mask must hold booleans; found {given.dtype}")
    mask = given.astype(bool, copy=False)
    weight = _weights(masked_scores(scores, mask), temperature)
    count = whole_numbers(n_eligible)
    if count.shape != mask.shape[:1]:
        raise ValueError(f"n_eligible must have one entry per row of scores, {mask.shape[:1]}; found {count.shape}")
    refuse_rows(count < mask.sum(axis=1), "n_eligible must count at least the candidates that remain")
    total = weight.sum(axis=1)
    p_candidate = _mix(weight, total[:, None], count[:, None], epsilon)
    return np.where(mask, p_candidate, 0.0), _mix(np.zeros(len(count)), total, count, epsilon)


def sample_slate(
    scores: ArrayLike,
    candidate_ids: Positions,
    eligible: Eligible,
    k: int,
    *,
    epsilon: float,
    temperature: float,
    rng: np.random.Generator,
) -> Slate:
    """Slates of k items, drawn from the top, with the probability of every draw.

    Where nothing eligible is left the slate ends early. A slate of k items holds an injected draw with probability
    1 - (1 - epsilon)^k.

    The softmax draws come from one random order of the candidates, by score / temperature + Gumbel noise: its first
    item, and after any item has left the first that remains, has the probabilities of the softmax over what remains.
    Source: Yellott (1977), doi:10.1016/0022-2496(77)90026-8.

    Args:
        scores: float64, finite wherever there is a candidate, (B, M).
        candidate_ids: catalogue positions of the ranked candidates, in any order, -1 for none, (B, M). They must be
            distinct and eligible: the list of candidates is fixed, and logged, before the first draw.
        eligible: what may be shown to each user.
        k: positions to fill.
        epsilon: share of uniform draws, 0 to 1.
        temperature: 0 or more, in units of the scores.
        rng: source of all draws.

    Raises: ScoreError: when a score is not finite, or epsilon or temperature is out of range. ValueError: when
        candidates repeat or are not eligible.
    """
    check_parameters(epsilon, temperature)
    masked = masked_scores(scores, candidate_ids >= 0)
    items = RemainingItems(eligible, k)
    check_candidates(candidate_ids, eligible, items)
    cap = eligible.cap
    order = _random_order(masked, temperature, rng)
    if cap is None:
        order = order[:, :k]
    rows = np.arange(len(eligible))
    # One column more, of no item, so that a row always has a first place to look at.
    queue = np.full((len(rows), order.shape[1] + 1), -1, dtype=np.int64)
    queue[:, :-1] = np.take_along_axis(candidate_ids, order, axis=1)
    alive = queue >= 0
    queue_groups = None if cap is None else cap.of(queue)
    shown = np.full((len(rows), k), -1, dtype=np.int64)
    n_eligible = np.zeros((len(rows), k), dtype=np.int64)
    closed = np.full((len(rows), k), -1, dtype=np.int64)
    injected = rng.random((k, len(rows))) < epsilon
    positions = range(k)
    if cap is None and not injected.any() and queue.shape[1] > k and (queue[:, :k] >= 0).all():
        # Nothing interferes: the slates are the heads of the queues, without a step for each position.
        shown, n_eligible, positions = queue[:, :k], items.count[:, None] - np.arange(k), range(0)
    for position in positions:
        first = alive.argmax(axis=1)
        chosen = np.where(alive[rows, first], queue[rows, first], -1)
        uniform = ((injected[position] | (chosen < 0)) & (items.count > 0)).nonzero()[0]
        if len(uniform):
            chosen[uniform] = items.draw(uniform, rng)
        shown[:, position] = chosen
        n_eligible[:, position] = items.count
        alive &= queue != chosen[:, None]
        newly_closed = items.show(chosen)
        if newly_closed is not None and queue_groups is not None:
            closed[:, position] = newly_closed
            alive &= (queue_groups != newly_closed[:, None]) | (newly_closed < 0)[:, None]
    column = _columns_of(candidate_ids, shown)
    candidate_groups = None if cap is None else cap.of(candidate_ids)
    last_position = _last_positions(candidate_ids.shape[1], column, candidate_groups, closed)
    propensity = _shown_probabilities(masked, last_position, column, n_eligible, epsilon, temperature)
    propensity[shown < 0] = np.nan
    return Slate(shown.astype(np.int32), propensity, n_eligible, column)


def slate_propensities(
    scores: ArrayLike,
    candidate_ids: Positions,
    slate: Positions,
    n_eligible: Positions,
    *,
    epsilon: float,
    temperature: float,
    cap: GroupCap | None = None,
) -> FloatArray:
    """The probability with which `sample_slate` would have shown these slates, position by position.

    Each is the probability of the item given the items above it, as in `Slate.propensity`.

    Args:
        scores: of the policy asked about, float64, finite wherever there is a candidate, (B, M).
        candidate_ids: its candidates, -1 for none, (B, M).
        slate: items shown, all eligible when they were shown, -1 after the end of a short slate, (B, K).
        n_eligible: eligible items before each position, as in `Slate`; where nothing is shown it is not read, (B, K).
        epsilon: share of uniform draws, 0 to 1.
        temperature: 0 or more, in units of the scores.
        cap: the rule under which slates are drawn, the same as in `Eligible`.

    Returns: (B, K); NaN where the slate is empty; 0 for an item that the cap forbids at its position.

    Raises: ScoreError: when a score is not finite, or epsilon or temperature is out of range. ValueError: when a slate
        shows an item twice or below an empty position, or no catalogue has such n_eligible: fewer than the candidates
        that remain and the item shown, or not fewer below an item that was shown.
    """
    check_parameters(epsilon, temperature)
    masked = masked_scores(scores, candidate_ids >= 0)
    n_eligible = whole_numbers(n_eligible)
    if slate.ndim != 2 or slate.shape != n_eligible.shape or len(slate) != len(masked):
        raise ValueError(
            f"slate and n_eligible must both be (B, K) with B = {len(masked)}; "
            f"found {slate.shape} and {n_eligible.shape}"
        )
    refuse_repeats(np.sort(candidate_ids, axis=1), "candidate_ids")
    refuse_repeats(np.sort(slate, axis=1), "slate")
    shown = slate >= 0
    refuse_rows(np.any(shown[:, 1:] & ~shown[:, :-1], axis=1), "a slate must be without holes: -1 only at its end")
    nothing_eligible = np.any(shown & (n_eligible < 1), axis=1)
    refuse_rows(nothing_eligible, "n_eligible must be at least 1 wherever an item is shown")

    column = _columns_of(candidate_ids, slate)
    groups, closed, forbidden = None, np.full(slate.shape, -1, dtype=np.int64), np.zeros(slate.shape, dtype=bool)
    if cap is not None:
        for position in range(1, slate.shape[1]):
            forbidden[:, position] = cap.is_closed(slate[:, :position], slate[:, position])
        groups = cap.of(candidate_ids)
        closed = np.stack([cap.closed_by(slate[:, : t + 1]) for t in range(slate.shape[1])], axis=1)
    last_position = _last_positions(candidate_ids.shape[1], column, groups, closed)
    # What the cap forbids was not eligible: it is not counted, and showing it takes nothing away.
    least = _sums_of_remaining(candidate_ids >= 0, last_position, slate.shape[1]) + ((column < 0) & ~forbidden)
    refuse_rows(
        np.any(shown & (n_eligible < least), axis=1),
        "n_eligible must count at least the candidates that remain and the item shown",
    )
    stays = shown[:, 1:] & ~forbidden[:, :-1] & (n_eligible[:, 1:] >= n_eligible[:, :-1])
    refuse_rows(np.any(stays, axis=1), "n_eligible must fall by at least one below an item that is shown")
    propensity = _shown_probabilities(masked, last_position, column, n_eligible, epsilon, temperature)
    propensity[forbidden] = 0.0
    propensity[~shown] = np.nan
    return propensity


def _weights(masked: FloatArray, temperature: float) -> FloatArray:
    """exp((score - best) / temperature) by row, or at temperature 0 whether the score is the best; 0 for -inf."""
    best = masked.max(axis=1, keepdims=True, initial=-np.inf)
    best[np.isneginf(best)] = 0.0
    if temperature == 0:
        return (masked == best).astype(np.float64)
    with np.errstate(over="ignore"):
        return np.exp((masked - best) / temperature)


def _mix(weight: FloatArray, total: FloatArray, n_eligible: Positions, epsilon: float) -> FloatArray:
    """The propensity of an item of some softmax weight, 0 for no candidate, out of a total that is 0 without any."""
    uniform = np.where(n_eligible > 0, 1.0 / np.maximum(n_eligible, 1), 0.0)
    share = weight / np.where(total > 0, total, 1.0)
    return np.where(total > 0, epsilon * uniform + (1.0 - epsilon) * share, uniform)


def _random_order(masked: FloatArray, temperature: float, rng: np.random.Generator) -> IntArray:
    """Columns in the order in which the softmax would draw them without replacement, (B, M)."""
    noise = -np.log(rng.standard_exponential(masked.shape))
    best = masked.max(axis=1, keepdims=True, initial=-np.inf)
    best[np.isneginf(best)] = 0.0
    if temperature == 0:
        return np.lexsort((noise, masked))[:, ::-1]
    with np.errstate(over="ignore"):
        scaled = (masked - best) / temperature
    keys = scaled + noise
    if np.any((scaled < -_KEY_RANGE) & np.isfinite(masked)):
        return np.lexsort((noise, masked, keys))[:, ::-1]
    return np.argsort(-keys, axis=1)


def _columns_of(candidate_ids: Positions, slate: Positions) -> IntArray:
    """The column of each shown item among the candidates, -1 where it is none; (B, M) and (B, K) to (B, K)."""
    columns = np.full(slate.shape, -1, dtype=np.int64)
    n_rows, n_candidates = candidate_ids.shape
    if not n_candidates or not slate.size:
        return columns
    block = max(1, _COMPARISONS // (n_candidates * slate.shape[1]))
    for start in range(0, n_rows, block):
        shown = slate[start : start + block]
        same = candidate_ids[start : start + block, None, :] == shown[:, :, None]
        columns[start : start + block] = np.where(same.any(axis=2) & (shown >= 0), same.argmax(axis=2), -1)
    return columns


def _last_positions(
    n_candidates: int, column: IntArray, candidate_groups: IntArray | None, closed: IntArray
) -> IntArray:
    """The last position at which each candidate could still be drawn, K for one that stays; (B, M).

    Args: column: of the shown items, (B, K). candidate_groups: (B, M), or None without a cap. closed: the group that
        each position fills, -1 for none, (B, K).
    """
    n_rows, k = column.shape
    last = np.full((n_rows, n_candidates), k, dtype=np.int64)
    if candidate_groups is not None:
        for position in reversed(range(k)):
            group = closed[:, position, None]
            last[(candidate_groups == group) & (group >= 0)] = position
    rows, positions = np.nonzero(column >= 0)
    columns = column[rows, positions]
    last[rows, columns] = np.minimum(last[rows, columns], positions)
    return last


def _shown_probabilities(
    masked: FloatArray,
    last_position: IntArray,
    column: IntArray,
    n_eligible: Positions,
    epsilon: float,
    temperature: float,
) -> FloatArray:
    """The propensity of every shown item, from when the candidates leave; (B, K)."""
    n_rows, k = column.shape
    weight = _weights(masked, temperature)
    total = _sums_of_remaining(weight, last_position, k)
    is_candidate = column >= 0
    shown_weight = np.zeros((n_rows, k))
    rows, positions = np.nonzero(is_candidate)
    shown_weight[rows, positions] = weight[rows, column[rows, positions]]
    low = total < _WEIGHT_FLOOR
    for position in np.flatnonzero(low.any(axis=0)):
        rows = np.flatnonzero(low[:, position])
        remaining = np.where(last_position[rows] >= position, masked[rows], -np.inf)
        anew = _weights(remaining, temperature)
        total[rows, position] = anew.sum(axis=1)
        if anew.shape[1]:
            at = column[rows, position]
            shown_weight[rows, position] = np.where(at >= 0, anew[np.arange(len(rows)), at], 0.0)
    return _mix(shown_weight, total, n_eligible, epsilon)


def _sums_of_remaining(values: NDArray[Any], last_position: IntArray, k: int) -> FloatArray:
    """Sums of the values (B, M) of the candidates that remain before each of k positions, (B, k).

    Taken from the bottom up: of values above 0 only additions, so no digits cancel.
    """
    n_rows = len(values)
    slot: IntArray = last_position + (np.arange(n_rows, dtype=np.int64) * (k + 1))[:, None]
    leaving = np.bincount(slot.reshape(-1), weights=values.reshape(-1), minlength=n_rows * (k + 1))
    return leaving.reshape(n_rows, k + 1)[:, ::-1].cumsum(axis=1)[:, :0:-1]
