"""Our own log as slates for the estimators: what was shown, and what another policy would have shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.data.rounds import Lists, Requests, Rounds
from rec.errors import DataError
from rec.item_groups import ItemCap
from rec.ope.estimate import Floats, cluster_codes
from rec.ope.logged import LoggedSlates, refuse_negative, refuse_vast
from rec.ope.reward_model import ridge
from rec.ope.slate_policy import Positions, SlatePolicy, columns_of
from rec.ope.slate_support import supported_positions, supported_slates
from rec.ope.support import refuse_unsupported
from rec.policy import slate_propensities

N_FOLDS: Final = 5
# An item's mean reward counts the overall mean as so many rounds more.
_PRIOR_ROUNDS: Final = 20.0
# Between a logged propensity and what the logged scores say it was, as a share of the latter.
_TOLERANCE: Final = 1e-6


@final
@dataclass(frozen=True, slots=True)
class SlateLog:
    """Q requests whose candidates and whole slates are known; items are numbered.

    Attributes:
        item_ids: by code, sorted, (N,).
        user_id, request_id, policy_version: (Q,).
        slate: item codes, -1 after the end, (Q, K).
        rewards, propensities: NaN after the end, (Q, K).
        n_eligible: 0 after the end, (Q, K).
        logging: the policy that drew them.
        history: item ids the user had taken, oldest first.
        excluded: item ids that were not to be shown, beside what the logging model knew as seen.
        user_features: of users the logging model had no row for, by name, as far as they were given.
        n_without: requests left out, because their candidates were not logged.
        n_incomplete: requests left out of those with candidates, because impressions of their slate are missing.
        cap: the rule under which they were drawn, None where there was none.
    """

    item_ids: NDArray[np.object_]
    user_id: NDArray[np.object_]
    request_id: NDArray[np.object_]
    policy_version: NDArray[np.object_]
    slate: Positions
    rewards: Floats
    propensities: Floats
    n_eligible: Positions
    logging: SlatePolicy
    history: list[NDArray[Any]]
    excluded: list[NDArray[Any]]
    user_features: list[dict[str, Any]]
    n_without: int
    n_incomplete: int = 0
    cap: ItemCap | None = None

    def __len__(self) -> int:
        return len(self.slate)

    def codes(self, item_ids: Sequence[Sequence[str]] | Lists) -> Positions:
        """Lists of items as codes, padded by -1; items that are nowhere in the log get codes of their own, (Q, M)."""
        return self.coded(item_ids)[0]

    def coded(self, item_ids: Sequence[Sequence[str]] | Lists) -> tuple[Positions, NDArray[np.object_]]:
        """As `codes`, and the items by code, those of the log first, (N + others,)."""
        lists = [np.asarray(item_ids[row], dtype=object) for row in range(len(item_ids))]
        flat = np.concatenate([*lists, np.zeros(0, dtype=object)]).astype(str)
        known = np.minimum(np.searchsorted(self.item_ids.astype(str), flat), max(len(self.item_ids) - 1, 0))
        others, elsewhere = np.unique(flat, return_inverse=True)
        found = np.where(self.item_ids[known].astype(str) == flat, known, len(self.item_ids) + elsewhere)
        return _padded(found, [len(items) for items in lists], -1), np.append(self.item_ids, others.astype(object))


def slate_log(rounds: Rounds, *, cap: ItemCap | None = None) -> SlateLog:
    """The requests of a log that can be evaluated, checked against what the log says of its own policy.

    A slate is whole that has an impression at each of its k positions, or from the top down to one at which nothing
    else was eligible. The last impressions of a slate may get lost as any others do. A slate that ends because its last
    item fills the group of all that was left does not tell; it counts as one that lost impressions.

    Args: rounds: of the log. cap: the rule under which all of them were drawn.
    Raises: DataError: when no request has its candidates logged and its whole slate; when one has an impression below
        its k positions; when the propensities of a request are not those of its candidates, scores, epsilon and
        temperature, as where a rule that is not in the log decided.
    """
    requests = rounds.requests
    shown = np.bincount(rounds.request, minlength=len(requests))
    last = np.full(len(requests), -1)
    np.maximum.at(last, rounds.request, rounds.position)
    _refuse_beyond(requests, last)
    bottom = rounds.position == last[rounds.request]
    exhausted = np.zeros(len(requests), dtype=bool)
    exhausted[rounds.request[bottom]] = rounds.n_eligible[bottom] == 1
    complete = (last + 1 == shown) & ((shown == requests.k) | exhausted)
    asked = shown > 0
    candidates = asked & requests.has_candidates
    whole = np.flatnonzero(candidates & complete)
    chosen: list[int] = whole.tolist()
    n_without, n_incomplete = int((asked & ~candidates).sum()), int((candidates & ~complete).sum())
    if not len(whole):
        raise DataError(
            f"no request of {int(asked.sum())} can be evaluated: {n_without} have no candidates logged, and of "
            f"{n_incomplete} impressions are missing. Candidates and their scores say what another policy would have "
            "shown: log them, and every position of the slate, for a sample of the requests at least",
            file="requests",
            column="candidates" if n_without else "k",
        )
    row_of = np.full(len(requests), -1)
    row_of[whole] = np.arange(len(whole))
    kept = rounds.take(row_of[rounds.request] >= 0)
    rows, k = row_of[kept.request], int(last[whole].max()) + 1
    listed = [requests.candidates[request].astype(str) for request in chosen]
    item_ids = np.unique(np.concatenate([kept.item_id.astype(str), *listed]))
    lengths = [len(items) for items in listed]
    scores = np.concatenate([requests.candidate_scores[request] for request in chosen])

    def by_position(values: NDArray[Any], empty: Any) -> NDArray[Any]:
        table = np.full((len(whole), k), empty, dtype=np.asarray(values).dtype)
        table[rows, kept.position] = values
        return table

    first = np.searchsorted(rows, np.arange(len(whole)))
    log = SlateLog(
        item_ids=item_ids.astype(object),
        user_id=requests.user_id[whole],
        request_id=requests.request_id[whole],
        policy_version=kept.policy_version[first],
        slate=by_position(np.searchsorted(item_ids, kept.item_id.astype(str)), -1),
        rewards=by_position(kept.reward, np.nan),
        propensities=by_position(kept.propensity, np.nan),
        n_eligible=by_position(kept.n_eligible, 0),
        logging=SlatePolicy(
            candidates=_padded(np.searchsorted(item_ids, np.concatenate(listed)), lengths, -1),
            scores=_padded(scores, lengths, 0.0),
            epsilon=requests.epsilon[whole],
            temperature=requests.temperature[whole],
            cap=None if cap is None else cap.of_items(item_ids.astype(object)),
        ),
        history=[requests.history[request] for request in chosen],
        excluded=[requests.excluded[request] for request in chosen],
        user_features=[requests.user_features[request] for request in chosen],
        n_without=n_without,
        n_incomplete=n_incomplete,
        cap=cap,
    )
    _check_reproduced(log)
    return log


def _refuse_beyond(requests: Requests, last: Positions) -> None:
    """Refuses an impression below the k positions that were asked for. Args: last: the lowest of each request, (Q,)."""
    beyond = last >= requests.k
    if beyond.any():
        row = int(np.argmax(beyond))
        raise DataError(
            f"a slate has its request's k positions at most, from 0; request {str(requests.request_id[row])!r} asked "
            f"for {requests.k[row]} and has position {last[row]}: correct k or the position where they are logged "
            f"({int(beyond.sum())} requests)",
            file="impressions",
            column="position",
        )


def shown_probabilities(policy: SlatePolicy, log: SlateLog) -> Floats:
    """With which probability a policy shows each logged item, given the items above it; NaN after the end, (Q, K)."""
    found, n_eligible = np.empty(log.slate.shape), eligible_counts(policy, log)
    for rows, epsilon, temperature in policy.drawn_alike():
        found[rows] = slate_propensities(
            policy.scores[rows],
            policy.candidates[rows],
            log.slate[rows],
            n_eligible[rows],
            epsilon=epsilon,
            temperature=temperature,
            cap=policy.cap,
        )
    return found


def logged_slates(
    log: SlateLog,
    target: SlatePolicy,
    *,
    rng: np.random.Generator,
    marginals: tuple[Floats, Floats] | None = None,
    position_weights: Floats | None = None,
) -> LoggedSlates:
    """The log with a target policy's probabilities and a reward model's predictions.

    What was eligible is what the log says: the target draws its share epsilon from as many items |E|, also where its
    own catalogue holds others, and only from more where it has more candidates. The reward model only sharpens
    `cascade_dr`; nothing depends on its being right.

    Args:
        log: Q requests.
        target: the policy under evaluation.
        rng: draws slates of the target, to see which of them the log could have shown.
        marginals: of the logged items under the logging and under the target policy, (Q, K) each, for the
            position-wise forms; `rec.ope.marginals` estimates them.
        position_weights: what a reward counts at each position, (K,). None: 1.

    Raises: SupportError: when too many of the target's slates could never have been logged, naming requests; where
        marginals are given, too many of its choices at the positions, naming these, as the position-wise forms lose no
        more (the cascade forms then refuse for themselves). DataError: when all requests are of one user, as the reward
        model learns from other users; for rewards too large to compute with.
    """
    column = columns_of(target.candidates, log.slate)
    refuse_vast(log.rewards, "rewards")
    gains = log.rewards if position_weights is None else log.rewards * refuse_negative(position_weights)
    model = cross_fitted(_folds(log.user_id), _reward_model(replace(log, rewards=gains), target, column))
    m = target.candidates.shape[1]
    by_candidate, elsewhere, by_position = model[:, :m], model[:, m], model[:, m + 1 :]
    at_column = np.take_along_axis(by_candidate, np.maximum(column, 0), axis=1)
    q_logged = by_position + np.where(column >= 0, at_column, elsewhere[:, None])
    q_target = np.empty_like(q_logged)
    for k in range(log.slate.shape[1]):
        p = _chances(target, log, k)
        q_target[:, k] = by_position[:, k] + (p * by_candidate).sum(axis=1) + (1 - p.sum(axis=1)) * elsewhere
    support, marginal_support = _supports(log, target, by_position=marginals is not None, rng=rng)
    return LoggedSlates(
        rewards=log.rewards,
        propensities=log.propensities,
        target_p=shown_probabilities(target, log),
        clusters=log.user_id,
        q_logged=q_logged,
        q_target=q_target,
        marginal_propensities=None if marginals is None else marginals[0],
        marginal_target_p=None if marginals is None else marginals[1],
        position_weights=position_weights,
        support=support,
        marginal_support=marginal_support,
        reproduced=True,
    )


def _supports(
    log: SlateLog, target: SlatePolicy, *, by_position: bool, rng: np.random.Generator
) -> tuple[float, float | None]:
    """The shares of the target's slates, and by_position of its choices, that the log could have shown."""
    slates = supported_slates(target, log.logging, log.n_eligible, rng=rng)

    def name_of(row: int) -> str:
        return f"request {str(log.request_id[row])!r}"

    if not by_position:
        return refuse_unsupported(slates, of="slates", file="impressions", name_of=name_of), None
    rows, positions = np.nonzero(log.slate >= 0)
    choices = supported_positions(target, log.logging, log.slate, log.n_eligible)[rows, positions]
    share = refuse_unsupported(
        choices, file="impressions", name_of=lambda at: f"{name_of(rows[at])} position {positions[at]}"
    )
    return float(min(slates.mean(), 1.0)), share


def _folds(user_id: NDArray[Any]) -> Positions:
    """The fold of each request's user; of a few users, who may all share one by chance, in turn."""
    folds = user_folds(user_id, N_FOLDS)
    if len(np.unique(folds)) > 1:
        return folds
    codes, n_users = cluster_codes(user_id)
    if n_users < 2:
        raise DataError(
            f"rewards are predicted by what other users did, so there must be two at least; all {len(codes)} requests "
            f"are of user {str(user_id[0])!r}",
            file="requests",
            column="user_id",
        )
    return codes % N_FOLDS


def _check_reproduced(log: SlateLog) -> None:
    again = shown_probabilities(log.logging, log)
    wrong = np.abs(again - log.propensities) > _TOLERANCE * again
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        capped = "" if log.cap is None else f" under a cap of {log.cap.limit} of one {log.cap.column}"
        raise DataError(
            f"{int(wrong.any(axis=1).sum())} of {len(log)} requests have other propensities than their candidates, "
            f"scores, epsilon and temperature make{capped}; first: request {log.request_id[row]!r} position "
            f"{position}, {log.propensities[row, position]:.12g} where {again[row, position]:.12g} follows. Leave out "
            "requests in which a rule decided that is not in the log, such as a cap by creator",
            file="impressions",
            column="propensity",
        )


def _chances(policy: SlatePolicy, log: SlateLog, k: int) -> Floats:
    """Probability of each of a policy's candidates at position k below the items logged above it, (Q, M)."""
    remain = (policy.candidates >= 0) & (policy.last_positions(log.slate) >= k) & (log.slate[:, k] >= 0)[:, None]
    p, _ = policy.chances(remain, eligible_counts(policy, log)[:, k])
    return p


def eligible_counts(policy: SlatePolicy, log: SlateLog) -> Positions:
    """The eligible items that the log counts, or the fewest there can be where a policy has more candidates, (Q, K).

    At least the candidates that remain and the item shown, and one fewer below it; 0 after the end.
    """
    shown, k = log.slate >= 0, np.arange(log.slate.shape[1])
    unlisted = columns_of(policy.candidates, log.slate) < 0
    last = np.where(policy.candidates >= 0, policy.last_positions(log.slate), -1)
    remain = np.stack([(last >= position).sum(axis=1) for position in k], axis=1)
    first = np.where(shown, np.maximum(log.n_eligible, remain + unlisted) + k, 0)
    return np.where(shown, np.maximum.accumulate(first[:, ::-1], axis=1)[:, ::-1] - k, 0)


def _reward_model(log: SlateLog, target: SlatePolicy, column: Positions) -> Callable[[Rows, Rows], Floats]:
    """Fits on some requests and predicts others: of each target candidate, of any other item, and by position.

    A position's gain to the slate's end is the mean reward there, plus a ridge regression of the deviation from it on
    the target's score, the logged score and the item's mean deviation, plus the mean of what was earned below.

    Args: column: of the shown items among the target's candidates, (Q, K).
    Returns: a function whose answers are (own, M + 1 + K).
    """
    same = columns_of(log.logging.candidates, target.candidates)
    logged_score = np.where(same >= 0, np.take_along_axis(log.logging.scores, np.maximum(same, 0), axis=1), 0.0)
    n_codes = int(max(log.slate.max(), target.candidates.max(initial=0))) + 1

    def features(rows: Positions, columns: Positions, item_mean: Floats) -> Floats:
        return np.stack([target.scores[rows, columns], logged_score[rows, columns], item_mean], axis=-1)

    def fit_predict(others: Rows, own: Rows) -> Floats:
        rows, k = np.nonzero(log.slate[others] >= 0)
        rows = others[rows]
        reward, item = log.rewards[rows, k], log.slate[rows, k]
        here = np.bincount(k, reward, log.slate.shape[1]) / np.maximum(np.bincount(k, minlength=log.slate.shape[1]), 1)
        below = np.nan_to_num(log.rewards[others])[:, ::-1].cumsum(axis=1)[:, ::-1].mean(axis=0)
        deviation = reward - here[k]
        total, count = np.bincount(item, deviation, n_codes), np.bincount(item, minlength=n_codes) + _PRIOR_ROUNDS
        listed = column[rows, k] >= 0
        without_own = (total[item] - deviation) / (count[item] - 1)
        known = features(rows[listed], column[rows, k][listed], without_own[listed])
        predict = ridge(known, deviation[listed]) if listed.any() else lambda asked: np.zeros(len(asked))
        elsewhere = deviation[~listed].sum() / ((~listed).sum() + _PRIOR_ROUNDS)
        candidates = target.candidates[own]
        columns = np.broadcast_to(np.arange(candidates.shape[1]), candidates.shape)
        asked = features(own[:, None], columns, (total / count)[np.maximum(candidates, 0)])
        by_candidate = predict(asked.reshape(-1, asked.shape[-1])).reshape(candidates.shape)
        to_the_end = here + np.append(below[1:], 0.0)
        rest = np.column_stack([np.full(len(own), elsewhere), np.broadcast_to(to_the_end, (len(own), len(to_the_end)))])
        return np.concatenate([np.where(candidates >= 0, by_candidate, 0.0), rest], axis=1)

    return fit_predict


def _padded(values: NDArray[Any], lengths: Sequence[int], empty: Any) -> NDArray[Any]:
    """Lists that follow each other in `values` as rows of one table."""
    table = np.full((len(lengths), max([*lengths, 1])), empty, dtype=np.asarray(values).dtype)
    table[np.arange(table.shape[1]) < np.asarray(lengths)[:, None]] = values
    return table
