"""InstaTok's whole loop, candidates, state, agent and world, beside the source notebook's algorithm.

Run:    python benchmarks/speed/sessions.py [--sessions 4096] [--repeats 10]
Data:   generated.
Expect: three minutes of processor time. Writes benchmarks/results/sessions.json.

The peer is `Notebook`, plain Python, pandas and SciPy as in the notebook: with every step the matrix of all videos and
users is built again from the table of interactions, all cosines are computed again, a loop goes over what the user has
and all videos, and the agent is asked about one session. It differs from the notebook where our environment does: the
interaction just made counts, the best by weighted score are candidates, at most `per_category` of one category, and
users are asked with given luck. It looks up what was seen in a set, which the notebook does in a list. Neither side
learns here.

Both play the same sessions first, the same users with the same luck and the same agent: at each of 200 recorded steps
candidates and their order, what the agent sees, what it shows and what the user does have to be the same, or the
benchmark ends without a ratio. The agent is untrained; a session of one that is trained is longer. Times are of the
processor, one thread each, in turns.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, compared, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.config import CandidateQConfig  # noqa: E402
from rec.models.session_agent import DQNAgent  # noqa: E402
from rl.config import InstaTokEnvConfig  # noqa: E402
from rl.instatok.agent_inputs import INPUTS  # noqa: E402
from rl.instatok.arena import Arena, VideoRound  # noqa: E402
from rl.instatok.candidates import SessionCandidates  # noqa: E402
from rl.instatok.log import log_sessions  # noqa: E402
from rl.instatok.slate_log import Candidates  # noqa: E402
from rl.instatok.slot_policies import split  # noqa: E402
from rl.instatok.world import ACTIONS, CATEGORIES, FATIGUE_WINDOW, REWARDS, VIDEO_SECONDS  # noqa: E402
from rl.session_env import Observation, SessionVectorEnv  # noqa: E402
from rl.session_evaluation import evaluation_seeds  # noqa: E402
from rl.streams import uniforms  # noqa: E402

RECORDED_STEPS: Final = 200


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    config = InstaTokEnvConfig()
    arena = Arena.of(config)
    torch.manual_seed(0)
    agent = DQNAgent(INPUTS, CandidateQConfig())
    recorded = record(arena, agent, RECORDED_STEPS)
    ours, theirs, parts = measured(arena, config, agent, recorded, options)
    row = compared(ours, theirs, {"name": "the notebook's algorithm, written plainly"})
    for side in ("ours", "peer"):
        row[side]["steps_per_s"] = 1000 / row[side]["median"]
    print(f"{len(recorded)} steps are the same", flush=True)
    for side, shares in parts.items():
        print(f"{side}: " + ", ".join(f"{name} {1e6 * seconds:.1f} us" for name, seconds in shares.items()) + " a step")
    rates = f"ours {row['ours']['steps_per_s']:.0f} steps/s, peer {row['peer']['steps_per_s']:.2f}"
    print(f"{rates}, ratio {row['ratio']:.0f} [{row['ratio_low']:.0f}, {row['ratio_high']:.0f}]", flush=True)
    result = {
        "name": "sessions",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {
            "environment": config.model_dump(mode="json"),
            "network": agent.config.model_dump(mode="json"),
            "sessions": options.sessions,
            "threads": 1,
            "same_steps": len(recorded),
            "clock": "processor time",
        },
        "unit": "ms",
        "repeats": options.repeats,
        **row,
        "parts_s": parts,
    }
    write_result(result)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=4096, help="ours, side by side")
    parser.add_argument("--steps", type=int, default=20, help="ours, of each session in each turn")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


@dataclass(frozen=True)
class Step:
    """One step of a session.

    Attributes: seed: of its stream. seen: by the agent. candidates: positions of the videos. shown: one of them.
        action: what the user did, a position in ACTIONS.
    """

    seed: int
    seen: Observation
    candidates: NDArray[np.integer[Any]]
    shown: int
    action: int

    def require_same(self, other: "Step") -> None:
        """Raises: RuntimeError: where the other is another step."""
        same = (
            np.array_equal(self.candidates, other.candidates)
            and (self.seed, self.shown, self.action) == (other.seed, other.shown, other.action)
            and all(np.allclose(self.seen[name], other.seen[name], rtol=1e-5, atol=1e-6) for name in self.seen)
        )
        if not same:
            raise RuntimeError(f"the peer does not do what ours does; it did {other}, ours {self}")


def record(arena: Arena, agent: DQNAgent, n_steps: int) -> list[Step]:
    """The first steps of whole sessions, one session after the other, as ours plays them side by side."""
    seeds = evaluation_seeds(0, n_steps)
    videos, everything = VideoRound(arena, n_steps), np.arange(n_steps)
    videos.seed(everything, seeds)
    videos.start(everything)
    sessions: list[list[Step]] = [[] for _ in seeds]
    while not videos.done.all():
        seen, live = videos.observe(), np.flatnonzero(~videos.done)
        columns = choose(agent, seen)
        outcome = videos.act(columns)
        for row in live.tolist():
            of_row = {name: values[row] for name, values in seen.items()}
            shown, action = int(outcome.info["item"][row]), int(outcome.info["action"][row])
            sessions[row].append(Step(int(seeds[row]), of_row, videos.candidates.ids[row].copy(), shown, action))
    return [step for session in sessions for step in session][:n_steps]


def choose(agent: DQNAgent, seen: Observation) -> NDArray[np.integer[Any]]:
    return agent.score(*split(seen)).argmax(axis=1)


def measured(
    arena: Arena, config: InstaTokEnvConfig, agent: DQNAgent, recorded: list[Step], options: argparse.Namespace
) -> tuple[list[float], list[float], dict[str, dict[str, float]]]:
    """Seconds of a step in each turn, ours and the peer's, and those of each part over all turns.

    The peer plays what was recorded. Raises: RuntimeError: where it does something else.
    """
    notebook, source = Notebook(arena, config, agent), TimedCandidates(arena.source)
    env = SessionVectorEnv(VideoRound(replace(arena, source=source), options.sessions))
    seen, _ = env.reset(seed=0)
    seen, *_ = env.step(choose(agent, seen))
    source.seconds = agent_s = played_s = 0.0
    n_steps, ours, theirs = 0, [], []
    for turn in np.array_split(np.arange(len(recorded)), options.repeats):
        began = time.process_time()
        played: list[Step] = []
        for step in turn.tolist():
            if step == 0 or recorded[step].seed != recorded[step - 1].seed:
                notebook.start(recorded[step].seed)
            played.append(notebook.step())
        theirs.append((time.process_time() - began) / len(turn))
        for step, by_peer in zip(turn.tolist(), played, strict=True):
            recorded[step].require_same(by_peer)
        n_live, began = 0, time.process_time()
        for _ in range(options.steps):
            # The step after the last of a session shows nothing.
            n_live += int((~env.round.done).sum())
            asked = time.process_time()
            columns = choose(agent, seen)
            agent_s += time.process_time() - asked
            seen, *_ = env.step(columns)
        played_s += time.process_time() - began
        ours.append((time.process_time() - began) / n_live)
        n_steps += n_live
    rest = played_s - source.seconds - agent_s
    parts = {"candidates": source.seconds, "state and world": rest, "agent": agent_s}
    return (
        ours,
        theirs,
        {
            "ours": {name: seconds / n_steps for name, seconds in parts.items()},
            "peer": {name: seconds / len(recorded) for name, seconds in notebook.parts.items()},
        },
    )


@dataclass
class TimedCandidates:
    """A source of candidates that adds up its processor time."""

    source: SessionCandidates
    seconds: float = 0.0

    @property
    def most_seen(self) -> int:
        """See SessionCandidates."""
        return self.source.most_seen

    def find(self, users: Any, shown: Any, rewards: Any, k: int) -> Candidates:
        """See SessionCandidates."""
        began = time.process_time()
        found = self.source.find(users, shown, rewards, k)
        self.seconds += time.process_time() - began
        return found


class Interaction(NamedTuple):
    """A row of the notebook's table."""

    user: int
    video: int
    score: float


class Notebook:
    """Plays one session, a step at a time; `parts` holds the processor time of each part of the loop so far."""

    def __init__(self, arena: Arena, config: InstaTokEnvConfig, agent: DQNAgent) -> None:
        log = log_sessions(arena.world).interactions
        assert log.action is not None
        self.arena, self.config, self.agent = arena, config, agent
        rows = zip(log.user.tolist(), log.item.tolist(), REWARDS[log.action].tolist(), strict=True)
        self.log = pd.DataFrame([Interaction(*row) for row in rows])
        self.views = (arena.world.initial_views + np.bincount(log.item, minlength=arena.world.n_items)).tolist()
        self.parts: dict[str, float] = dict.fromkeys(("candidates", "state", "agent", "world"), 0.0)

    def start(self, seed: int) -> None:
        """A new session; what the one before added to the table is gone."""
        self.seed, self.n_steps = seed, 0
        self.user = int(self._luck()[0] * self.arena.world.n_users)
        self.table = self.log.copy()
        self.seconds, self.actions, self.categories = 0.0, [], []

    def step(self) -> Step:
        """One video."""
        began = time.process_time()
        candidates = self.candidates()
        found = time.process_time()
        seen = self.state(candidates)
        described = time.process_time()
        session, of_candidates = split(seen)
        column = int(self.agent.score(session, of_candidates).argmax())
        chosen = time.process_time()
        videos = [video for video, _ in candidates]
        action = self.show(videos[column])
        for name, seconds in (
            ("candidates", found - began),
            ("state", described - found),
            ("agent", chosen - described),
            ("world", time.process_time() - chosen),
        ):
            self.parts[name] += seconds
        return Step(self.seed, seen, np.array(videos), videos[column], action)

    def candidates(self) -> list[tuple[int, float]]:
        """Videos and their scores, the best first."""
        videos, cosines = self.cosines()
        own = self.table[self.table["user"] == self.user]
        watched, scores = own["video"].tolist(), own["score"].tolist()
        seen = set(watched)
        similarity = {video: 0.0 for video in range(self.arena.world.n_items) if video not in seen}
        for video, score in zip(watched, scores, strict=True):
            for other, cosine in zip(videos, cosines[videos.index(video)], strict=True):
                if other not in seen:
                    similarity[other] += cosine * score
        weights, world = self.config.score, self.arena.world
        interests, category = world.interests[self.user].tolist(), world.category.tolist()
        scored = []
        for video, value in similarity.items():
            score = weights.similarity_weight * value + weights.views_weight * np.log1p(self.views[video])
            score += weights.interest_weight * (category[video] in interests)
            scored.append((video, float(score)))
        # Equal scores are added up in another order than ours: their last digits must not decide.
        scored.sort(key=lambda pair: (-round(pair[1], 11), pair[0]))
        taken, of_category = [], dict.fromkeys(range(len(CATEGORIES)), 0)
        for video, score in scored:
            if len(taken) < self.config.n_candidates and of_category[category[video]] < (
                self.config.per_category or 99
            ):
                taken.append((video, score))
                of_category[category[video]] += 1
        return taken

    def cosines(self) -> tuple[list[int], NDArray[np.float64]]:
        """The videos of the table, and the cosine of each two."""
        table = self.table.pivot_table(index="video", columns="user", values="score", aggfunc="sum", fill_value=0)
        matrix = sparse.csr_array(table.to_numpy(np.float64))
        norms = np.sqrt(matrix.multiply(matrix).sum(axis=1))
        unit = sparse.csr_array(
            sparse.diags_array(np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)) @ matrix
        )
        return table.index.tolist(), (unit @ unit.T).toarray()

    def state(self, candidates: list[tuple[int, float]]) -> Observation:
        """What the agent sees."""
        world, longest = self.arena.world, self.arena.world.config.max_steps
        recent = self.categories[-FATIGUE_WINDOW:]
        interests = world.interests[self.user].tolist()
        numbers = [self.n_steps / longest, *(self.actions.count(action) / longest for action in range(3))]
        youngest, oldest = world.age.min(), world.age.max()
        numbers += [self.seconds / (longest * VIDEO_SECONDS), (world.age[self.user] - youngest) / (oldest - youngest)]
        features, categories = [], []
        for video, score in candidates:
            category = int(world.category[video])
            views, repeats = float(self.arena.views[video]), recent.count(category) / FATIGUE_WINDOW
            features.append([score / (1 + abs(score)), float(category in interests), views, repeats])
            categories.append(category)
        profile = [int(world.gender[self.user]), int(world.region[self.user]), *interests]
        return {
            "numbers": np.array(numbers, np.float32),
            "profile": np.array(profile),
            "last_action": np.array(self.actions[-1] if self.actions else len(ACTIONS)),
            "recent_categories": np.array([len(CATEGORIES)] * (FATIGUE_WINDOW - len(recent)) + recent),
            "candidates": np.array(features, np.float32),
            "candidate_categories": np.array(categories),
        }

    def show(self, video: int) -> int:
        """What the user does."""
        world = self.arena.world
        category = int(world.category[video])
        self.n_steps += 1
        luck, looked = self._luck()
        repeats = self.categories[-FATIGUE_WINDOW:].count(category)
        p = float(world.watch_p_of(np.array([self.user]), np.array([category]), np.array([repeats]))[0])
        action = 0 if luck < p else 1 + min(int(3 * (luck - p) / (1 - p)), 2)
        self.seconds += VIDEO_SECONDS if ACTIONS[action] in ("watched", "liked") else 1 + 4 * looked
        self.actions.append(action)
        self.categories.append(category)
        row = pd.DataFrame([Interaction(self.user, video, float(REWARDS[action]))])
        self.table = pd.concat([self.table, row], ignore_index=True)
        return action

    def _luck(self) -> tuple[float, float]:
        points = uniforms(np.array([self.seed], np.uint64), np.zeros(1, np.int64), np.array([self.n_steps]))[0]
        return float(points[0]), float(points[1])


if __name__ == "__main__":
    main()
