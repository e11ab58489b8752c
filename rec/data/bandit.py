"""Data whose every label is known, turned into what a logging policy would have recorded of them.

For each context the policy draws k different actions from its softmax, and only the labels of these are kept. Source:
Agarwal et al. (2014), doi:10.48550/arXiv.1402.0555, section 5; Ma et al. (2020), doi:10.1145/3366423.3380130, section
5.1, who draw five items a user without replacement and record the probability of a single draw.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from rec.errors import ConfigError, DataError

FloatArray = NDArray[np.float64]
PropensityKind = Literal["draw", "conditional", "inclusion"]

# Contexts taken at once: their probabilities should stay in the cache.
_BLOCK_NUMBERS: Final = 2**20
# The quadrature of inclusion probabilities: first time, least rate, and step of the logarithm of time for up to so many
# draws. Beyond the most draws counts would come near the ends of float64.
_EARLIEST: Final = 1e-7
_SLOWEST: Final = 1e-300
_STEP: Final = 0.25
_DRAWS_OF_STEP: Final = 12
_MOST_DRAWS: Final = 200


@final
@dataclass(frozen=True, slots=True)
class BanditLog:
    """What a logging policy recorded: n = contexts times k rounds, those of a context side by side in drawing order.

    Attributes:
        context: row of the labels the round is about, int64, (n,).
        action: column of the labels that was drawn, int64, (n,).
        reward: its label, float64, (n,).
        draw_p: softmax probability of the action: what one draw, or the first of several, has; (n,).
        conditional_p: its probability given the actions drawn above it in the same context, (n,).
        k: rounds of each context.
    """

    context: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: FloatArray
    draw_p: FloatArray
    conditional_p: FloatArray
    k: int

    def __len__(self) -> int:
        return len(self.action)


def bandit_log(
    logits: NDArray[np.floating[Any]], labels: NDArray[Any], *, k: int, rng: np.random.Generator
) -> BanditLog:
    """Draws k different actions per context from softmax(logits), and keeps only the labels of these.

    The draws are those of one random order by logit + Gumbel noise, whose first item has the softmax's distribution,
    and whose next the softmax's over what remains. Source: Yellott (1977), doi:10.1016/0022-2496(77)90026-8.

    Args: logits: of the logging policy, finite, (C, N). labels: reward of every action, (C, N). k: 1 to N.
    Raises: DataError: naming the row, for a logit or a label that is not finite, and for a drawn action whose
        probability is too small to be represented; for arguments of another type.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise DataError(f"k must be a whole number; found {k!r}")
    for name, given in (("logits", logits), ("labels", labels)):
        if not isinstance(given, np.ndarray) or given.dtype.kind not in "biuf":
            found = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
            raise DataError(f"{name} must be numbers in a NumPy array; found {found}")
    if not isinstance(rng, np.random.Generator):
        raise DataError(f"rng must be a numpy.random.Generator; found {rng!r}")
    if logits.shape != labels.shape or logits.ndim != 2:
        raise DataError(f"logits and labels must both be (contexts, actions); found {logits.shape} and {labels.shape}")
    n_contexts, n_actions = logits.shape
    if not 1 <= k <= n_actions:
        raise DataError(f"k must be 1 to the number of actions, {n_actions}; found {k}")
    action = np.empty((n_contexts, k), dtype=np.int64)
    draw_p, conditional_p = np.empty((n_contexts, k)), np.empty((n_contexts, k))
    for block in _blocks(n_contexts, n_actions):
        scores = np.asarray(logits[block], dtype=np.float64)
        if not np.isfinite(scores).all():
            row = block.start + int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
            raise DataError("every logit of the logging policy must be finite; fix the policy", row=row)
        keys = scores - np.log(rng.standard_exponential(scores.shape))
        top = np.argpartition(-keys, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(-keys, top, axis=1).argsort(axis=1)
        action[block] = np.take_along_axis(top, order, axis=1)
        draw_p[block] = np.take_along_axis(softmax(scores), action[block], axis=1)
        conditional_p[block] = _conditional(scores, action[block])
    never = (draw_p == 0.0).any(axis=1)
    if never.any():
        raise DataError(
            "an action was drawn whose softmax probability is too small to be represented: log with a policy that is "
            "less peaked, or draw fewer actions",
            row=int(never.argmax()),
        )
    wrong = ~np.isfinite(labels).all(axis=1)
    if wrong.any():
        raise DataError("every label must be a finite number; fix or leave out the row", row=int(wrong.argmax()))
    context = np.repeat(np.arange(n_contexts), k)
    return BanditLog(
        context=context,
        action=action.ravel(),
        reward=np.asarray(labels[context, action.ravel()], dtype=np.float64),
        draw_p=draw_p.ravel(),
        conditional_p=conditional_p.ravel(),
        k=k,
    )


def propensities(log: BanditLog, logits: NDArray[np.floating[Any]], kind: PropensityKind) -> FloatArray:
    """The propensity of each round, (n,).

    `draw` takes each round for a draw of its own, as Ma et al. (2020) do: it is too large for what is likely, since
    likely actions are drawn early and then never again. `inclusion` is the probability of the action at a round taken
    at random among the k of its context, P(action among the k) / k: with it the mean of target_p / propensity * reward
    is unbiased. `conditional` is right for what a slate's position shows, given the items above it; as a weight of
    single actions it leaves out the part of the target on those above.

    Args: log: rounds. logits: of the logging policy, (C, N).
    Raises: ConfigError: for a kind there is none of. DataError: for logits that the log was not drawn with, and as
        `inclusion_probabilities`.
    """
    if kind not in get_args(PropensityKind):
        raise ConfigError(f"expected {', '.join(get_args(PropensityKind))}; found {kind!r}", field="kind")
    if kind == "draw":
        return log.draw_p
    if kind == "conditional":
        return log.conditional_p
    included, drawn = inclusion_probabilities(logits, log.context, log.action, log.k)
    other = ~np.isclose(drawn, log.draw_p, rtol=1e-6, atol=0.0)
    if other.any():
        raise DataError(
            "these are not the logits that the log was drawn with: give those of the logging policy",
            row=int(other.argmax()),
        )
    return included / log.k


def inclusion_probabilities(
    logits: NDArray[np.floating[Any]], context: NDArray[np.int64], action: NDArray[np.int64], k: int
) -> tuple[FloatArray, FloatArray]:
    """Probability that an action is among k draws without replacement from softmax(logits), and in a draw of its own.

    Let action j arrive after a time that is exponential with rate p_j: the first k to arrive are the k draws, so

        P(among k) = integral over t of p e^{-p t} P(fewer than k of the others arrived by t) dt.

    The others that arrived are counted exactly: the most likely ones one by one, the rest by Newton's identities from
    power sums of their odds e^{p_j t} - 1, which then are small. The integral is the trapezoid's over log t, whose
    error falls exponentially; times below 1e-7 are left out, and with them at most 1e-7 of the answer.

    Args: logits: of the logging policy, (C, N). context: ascending, (n,). action: (n,). k: up to 200.
    Returns: P(among k), and p, (n,) both.
    Raises: DataError: naming the round, for an action whose probability is too small to be represented, and for a
        context or an action that the logits do not have; for more draws than there are actions, or than 200.
    """
    n_contexts, n_actions = logits.shape
    if not 1 <= k <= min(n_actions, _MOST_DRAWS):
        raise DataError(
            f"inclusion probabilities are known for 1 to {_MOST_DRAWS} draws, of as many actions or more; found {k} of "
            f"{n_actions}: take draw or conditional propensities"
        )
    unknown = (context < 0) | (context >= n_contexts) | (action < 0) | (action >= n_actions)
    if unknown.any() or not np.isfinite(logits).all() or (np.diff(context) < 0).any():
        raise DataError(
            f"logits must be finite, of every context and action, and contexts ascend; found logits {logits.shape}",
            row=int(unknown.argmax()) if unknown.any() else None,
        )
    answer, drawn = np.full(len(action), np.nan), np.full(len(action), np.nan)
    for block in _blocks(len(logits), logits.shape[1]):
        rows = slice(*np.searchsorted(context, (block.start, block.stop)))
        p = softmax(np.asarray(logits[block], dtype=np.float64))
        mine = context[rows] - block.start
        answer[rows], drawn[rows] = _inclusion(p, mine, action[rows], k), p[mine, action[rows]]
    wrong = ~((answer > 0) & np.isfinite(answer))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} actions have no inclusion probability that is above 0 and finite: their softmax "
            "probability is too small to be represented; log with a policy that is less peaked",
            row=int(wrong.argmax()),
        )
    return np.minimum(answer, 1.0), drawn


def _inclusion(p: FloatArray, mine: NDArray[np.int64], action: NDArray[np.int64], k: int) -> FloatArray:
    """`inclusion_probabilities` where `mine` is the row of p (C, N) that each action (n,) belongs to."""
    # With fewer heads the odds of the tail could be so large that their power sums cancel.
    n_heads = min(2 * k, p.shape[1])
    heads = np.argpartition(-p, n_heads - 1, axis=1)[:, :n_heads]
    p_head = np.take_along_axis(p, heads, axis=1)
    p_tail = p.copy()
    np.put_along_axis(p_tail, heads, 0.0, axis=1)
    p_action = p[mine, action]
    is_head = heads[mine] == action[:, None]
    others = np.where(is_head, 0.0, p_head[mine])
    in_tail = np.where(is_head.any(axis=1), 0.0, p_action)
    tail_mass = p_tail.sum(axis=1)[mine] - in_tail
    likeliest = np.sort(p_head, axis=1)[:, ::-1]
    # The slowest rate of each context at which actions still arrive, where all of the k - 1 likeliest have. Once 3 k
    # and 50 are expected, fewer than k have a probability below e^-45, and what is left of the integral is nothing.
    # Odds of a context that is over would overflow while others go on, so its time stands still. An action whose time
    # comes after all this is `beyond`.
    slowest = likeliest[:, k - 1 :].sum(axis=1) + p_tail.sum(axis=1)
    end = (50 + 3 * k) / np.maximum(slowest, _SLOWEST)
    beyond = (p_action < _SLOWEST) & (slowest[mine] < _SLOWEST)
    # The k-th arrival is the sharper in log t the more draws there are: by the square root of k.
    step = _STEP * min(1.0, _DRAWS_OF_STEP / k) ** 0.5
    total = np.zeros(len(action))
    for log_time in np.arange(np.log(_EARLIEST), np.log(end.max(initial=_EARLIEST)), step):
        now = np.exp(log_time)
        odds = np.expm1(p_tail * np.minimum(now, end)[:, None])
        time = np.minimum(now, end[mine])
        own = np.expm1(in_tail * time)
        power_sums, power = [], odds.copy()
        for m in range(1, k):
            power_sums.append(power.sum(axis=1)[mine] - own**m)
            power *= odds
        arrived = np.exp(-tail_mass * time)[:, None] * _elementary(power_sums, len(action))
        for head in range(n_heads):
            stays = np.exp(-others[:, head] * time)[:, None]
            earlier = np.pad(arrived[:, :-1], ((0, 0), (1, 0)))
            arrived = arrived * stays + earlier * (1 - stays)
        total += time * np.exp(-p_action * time) * arrived.sum(axis=1)
    return np.where(beyond, np.nan, p_action * total * step)


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def _conditional(scores: FloatArray, action: NDArray[np.int64]) -> FloatArray:
    """Probability of each action (C, k) among what those before it leave; sums run upwards, so nothing cancels."""
    drawn = np.take_along_axis(scores, action, axis=1)
    never = scores.copy()
    np.put_along_axis(never, action, -np.inf, axis=1)
    rest = np.logaddexp.reduce(never, axis=1, keepdims=True)
    remaining = np.logaddexp.accumulate(np.concatenate([rest, drawn[:, ::-1]], axis=1), axis=1)[:, :0:-1]
    return np.exp(drawn - remaining)


def _elementary(power_sums: list[FloatArray], n: int) -> FloatArray:
    """The elementary symmetric polynomials e_0 .. e_{k-1} from the power sums 1 .. k-1, (n, k); Newton's identities."""
    elementary = [np.ones(n)]
    for m in range(1, len(power_sums) + 1):
        terms = [(-1) ** (i - 1) * elementary[m - i] * power_sums[i - 1] for i in range(1, m + 1)]
        elementary.append(np.sum(terms, axis=0) / m)
    return np.stack(elementary, axis=1)


def _blocks(n_rows: int, width: int) -> list[slice]:
    step = max(1, _BLOCK_NUMBERS // max(width, 1))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
