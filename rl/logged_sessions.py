"""A logged run of sessions, and what it says of an agent that did not play it."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rec.models.session_agent import SessionAgent
from rec.ope import LoggedSlates, evaluate_slates
from rec.policy import position_probabilities
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.slot_policies import split
from rl.session_evaluation import evaluation_seeds
from rl.streams import uniforms

_CHOICES: Final = np.uint64(0xC2B2AE3D27D4EB4F)


def logged_sessions(
    arena: Arena, logging: SessionAgent, target: SessionAgent, seeds: NDArray[np.uint64], *, epsilon: float
) -> LoggedSlates:
    """Plays the first session of each stream, and reads off with which probability another agent had done the same.

    The logging policy shows, as the service does with an agent, any of its candidates with probability epsilon, and the
    one it values most otherwise. A session is read as a slate seen from the top: what an item earns depends on those
    before it, so the `cascade` estimators hold, per-decision importance sampling (Precup et al., 2000) and, with the
    target's own values as predictions, doubly robust (Jiang and Li, 2016, arXiv:1511.03722).

    Args: logging: plays. target: is judged, without exploration. seeds: of the streams, (S,). epsilon: share of
        candidates drawn uniformly; above 0, or what the target does may never have been tried.
    """
    n_sessions, n_candidates = len(seeds), arena.n_candidates
    everything = np.arange(n_sessions)
    videos = VideoRound(arena, n_sessions)
    videos.seed(everything, seeds)
    videos.start(everything)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("propensities", "target_p", "q_logged", "q_target")}
    available = np.ones((n_sessions, n_candidates), np.bool_)
    n_eligible = np.full(n_sessions, n_candidates)
    while not videos.done.all():
        live, steps = ~videos.done, videos.sessions.n_steps.copy()
        seen = videos.observe()
        theirs = logging.score(*split(seen))
        p, _ = position_probabilities(theirs, available, n_eligible, epsilon=epsilon, temperature=0.0)
        points = uniforms(seeds ^ _CHOICES, np.zeros_like(steps), steps)[:, :1]
        actions = np.minimum((p.cumsum(axis=1) <= points * p.sum(axis=1, keepdims=True)).sum(axis=1), n_candidates - 1)
        values = target.score(*split(seen))
        wanted = values.argmax(axis=1)
        columns["propensities"].append(np.where(live, p[everything, actions], np.nan))
        columns["target_p"].append((actions == wanted).astype(np.float64))
        columns["q_logged"].append(values[everything, actions])
        columns["q_target"].append(values[everything, wanted])
        videos.act(actions)
    of_steps = {name: np.stack(parts, axis=1) for name, parts in columns.items()}
    n_steps = of_steps["propensities"].shape[1]
    return LoggedSlates(
        rewards=videos.rewards[:, :n_steps],
        propensities=of_steps["propensities"],
        target_p=of_steps["target_p"],
        clusters=videos.users.copy(),
        q_logged=of_steps["q_logged"],
        q_target=of_steps["q_target"],
        support=1.0 if epsilon > 0 else None,
    )


def estimates_from_log(
    arena: Arena, logging: SessionAgent, target: SessionAgent, *, n_sessions: int, epsilon: float, seed: int
) -> dict[str, dict[str, Any]]:
    """What the target earns in a session, by estimator, from sessions that the logging agent played; as JSON.

    The streams are not those of `evaluation_seeds(seed, ...)`, in which the truth is measured.
    """
    streams = evaluation_seeds(seed + 1, n_sessions) ^ _CHOICES
    slates = logged_sessions(arena, logging, target, streams, epsilon=epsilon)
    rng = np.random.default_rng(seed)
    return {name: estimate.to_json() for name, estimate in evaluate_slates(slates, rng=rng).items()}
