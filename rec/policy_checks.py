"""What `rec.policy` refuses: scores, candidates and slates that no draw could have had, by row."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rec.eligibility import BoolArray, Eligible, IntArray, RemainingItems
from rec.errors import ScoreError

FloatArray = NDArray[np.float64]
Positions = NDArray[np.integer[Any]]


def whole_numbers(counts: ArrayLike) -> IntArray:
    """Counts of eligible items, which are no fractions."""
    values = np.asarray(counts)
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"n_eligible must hold whole numbers; found {values.dtype}")
    return values.astype(np.int64, copy=False)


def masked_scores(scores: ArrayLike, mask: BoolArray) -> FloatArray:
    """The scores as float64, -inf where there is no candidate."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape != mask.shape:
        raise ValueError(f"scores and candidates must both be (B, M); found {values.shape} and {mask.shape}")
    wrong = mask & ~np.isfinite(values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ScoreError(
            f"scores of candidates must be finite; {wrong.sum()} of {mask.sum()} are not. "
            f"First: {values[row, column]} for candidate {column}. Check the ranker's inputs and weights",
            row=int(row),
        )
    return np.where(mask, values, -np.inf)


def check_parameters(epsilon: float, temperature: float) -> None:
    """Epsilon is a share, temperature finite and not negative."""
    if not 0 <= epsilon <= 1:
        raise ScoreError(f"epsilon must lie in [0, 1]; found {epsilon}", field="epsilon")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ScoreError(f"temperature must be finite and 0 or more; found {temperature}", field="temperature")


def check_candidates(candidate_ids: Positions, eligible: Eligible, items: RemainingItems) -> None:
    """Candidates are distinct items of the catalogue, and none of them is excluded."""
    if len(candidate_ids) != len(eligible):
        raise ValueError(f"candidates are given for {len(candidate_ids)} users, eligible items for {len(eligible)}")
    ascending = np.sort(candidate_ids, axis=1)
    refuse_repeats(ascending, "candidate_ids")
    if ascending.size:
        refuse_rows(ascending[:, -1] >= eligible.n_items, f"candidates must lie in 0..{eligible.n_items - 1}")
    excluded = items.n_excluded_among(ascending) > 0
    refuse_rows(excluded, "candidates must be eligible: filter excluded items out before they are ranked")


def refuse_repeats(ascending: Positions, name: str) -> None:
    """Items of a row stand in it once; rows ascending, (B, M), -1 for none."""
    repeated = np.any((ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0), axis=1)
    refuse_rows(repeated, f"the items of one row of {name} must be distinct")


def refuse_rows(wrong: BoolArray, rule: str) -> None:
    """Names the first row that breaks a rule, (B,)."""
    if wrong.any():
        raise ValueError(f"{rule}; {wrong.sum()} of {len(wrong)} rows break this. First: row {np.argmax(wrong)}")
