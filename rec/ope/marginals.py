"""How likely an item stands at a position, whatever stands above it: for the position-wise form."""

from typing import Final

import numpy as np

from rec.eligibility import Eligible
from rec.errors import ConfigError
from rec.ope.estimate import Floats
from rec.ope.slate_log import SlateLog, eligible_counts
from rec.ope.slate_policy import Positions, SlatePolicy, columns_of
from rec.policy import sample_slate, slate_propensities

N_PREFIXES: Final = 1000


def marginal_probabilities(
    policy: SlatePolicy, log: SlateLog, *, rng: np.random.Generator, n_prefixes: int = N_PREFIXES
) -> Floats:
    """Marginal probability of each logged item at its position under a policy; NaN after the end, (Q, K).

    Exact at position 0. Below, the probability given the items above is averaged over `n_prefixes` slates drawn from
    the policy itself, 0 where the item stands above already; a slate costs some microseconds, so a request takes some
    ten milliseconds. The average divides in importance weights, which makes these too large by the square of its
    relative error: take more prefixes where an item is rare.

    Assumes: nothing but what was shown above is excluded below, and the log's first n_eligible are all there is.
    Raises: ConfigError: for a policy that draws under a cap.
    """
    if policy.cap is not None:
        raise ConfigError(
            "the position-wise forms average over slates that were not logged, and how many items a cap would leave "
            "eligible in those is not in the log; take cascade, sn_cascade or cascade_dr",
            field="estimators",
        )
    found = np.full(log.slate.shape, np.nan)
    columns, n_eligible = columns_of(policy.candidates, log.slate), eligible_counts(policy, log)
    for row in range(len(log)):
        length = int((log.slate[row] >= 0).sum())
        if not length:
            continue
        m = int((policy.candidates[row] >= 0).sum())
        listed = policy.candidates[row] >= 0
        # Items of one request: its candidates from 0, then everything else that may be shown, of which all have one
        # marginal: the first stands for each.
        n_items = int(n_eligible[row, 0])
        place = np.full(len(listed), -1)
        place[listed] = np.arange(m)
        item = np.where(columns[row] >= 0, place[np.maximum(columns[row], 0)], m)
        found[row, :length] = _of_request(
            policy.scores[row][listed],
            item[:length],
            n_items,
            epsilon=float(policy.epsilon[row]),
            temperature=float(policy.temperature[row]),
            n_prefixes=n_prefixes,
            rng=rng,
        )
    return found


def _of_request(
    scores: Floats,
    items: Positions,
    n_items: int,
    *,
    epsilon: float,
    temperature: float,
    n_prefixes: int,
    rng: np.random.Generator,
) -> Floats:
    """Of items (K,) in one request whose candidates are 0..M-1 of n_items; (K,)."""
    k = len(items)
    candidates = np.broadcast_to(np.arange(len(scores)), (n_prefixes, len(scores)))
    ranked = np.broadcast_to(scores, (n_prefixes, len(scores)))
    eligible = Eligible.everything(n_prefixes, n_items)
    drawn = sample_slate(ranked, candidates, eligible, k, epsilon=epsilon, temperature=temperature, rng=rng)
    found = np.zeros(k)
    for position in range(k):
        prefixes = drawn.item_ids[: 1 if position == 0 else n_prefixes, :position]
        free = ~(prefixes == items[position]).any(axis=1)
        if free.any():
            n = int(free.sum())
            slate = np.concatenate([prefixes[free], np.full((n, 1), items[position])], axis=1)
            n_eligible = n_items - np.broadcast_to(np.arange(position + 1), slate.shape)
            p = slate_propensities(
                ranked[:n], candidates[:n], slate, n_eligible, epsilon=epsilon, temperature=temperature
            )
            found[position] = p[:, -1].sum() / len(prefixes)
    return found
