"""Training runs of session agents: curves, checkpoints, resuming, and the agent as a file."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import plotly.graph_objects as go
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_MODULE_STEPS_TRAINED,
)
from tensorboardX import SummaryWriter

from rec.errors import ConfigError, DataError, TrainingError
from rec.models.session_agent import AGENT_FILE, SessionAgent, load_agent
from rec.runs import say
from rec.storage import recover_folder, replace_file, replace_folder

CONFIG_FILE: Final = "agent.json"
CURVE_FILE: Final = "curve.jsonl"
PLOT_FILE: Final = "curve.html"
CHECKPOINT: Final = "checkpoint"
# Where a checkpoint has its networks, and what has been played.
MODULE_FOLDER: Final = f"learner_group/learner/rl_module/{DEFAULT_MODULE_ID}"
PLAYED_FOLDER: Final = "env_runner"


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to.

    Attributes: folder: of the run: agent.safetensors, curve.jsonl, curve.html, TensorBoard's files and a checkpoint.
        agent: that learnt, as its file holds it. steps: played. curve: a row for each report: steps, reward, videos,
        loss, mean value.
    """

    folder: Path
    agent: SessionAgent
    steps: int
    curve: list[dict[str, float]]


def train_agent(
    algorithm_config: AlgorithmConfig,
    agent_of: Callable[[Any], SessionAgent],
    *,
    total_steps: int,
    asked: Mapping[str, Any],
    folder: Path,
    resume: bool = False,
) -> Trained:
    """Runs an RLlib algorithm until so many steps have been played; Ray is running.

    A checkpoint holds networks, optimizers and counters, but not the replay, which fills anew after a resumption. It is
    RLlib's, pickles included: resume runs of your own only. What is served is agent.safetensors, which holds no code.
    From the first report on there is always a whole one, whenever the run is killed; a resumption drops the rows of the
    curve that are of later steps.

    Args:
        algorithm_config: what RLlib is told.
        agent_of: makes the agent of RLlib's module.
        total_steps: of sessions.
        asked: what for, as JSON; a resumption has to ask for the same.
        folder: of the run.
        resume: whether to go on from the checkpoint in it.

    Raises: ConfigError: for a run that cannot be resumed, or was asked for something else. DataError: for one with a
        damaged file. TrainingError: when the training diverges, or ends before its first update. BundleError: naming
        the agent's file, when what was learnt is not finite.
    """
    if resume:
        require_same(folder, asked)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / CONFIG_FILE, (json.dumps(asked, indent=1) + "\n").encode())
    algorithm = algorithm_config.build_algo()
    try:
        if resume:
            algorithm.restore_from_path(str(folder / CHECKPOINT))
        curve = _curve_so_far(folder, algorithm) if resume else []
        _keep(curve, folder)
        with SummaryWriter(str(folder)) as board:
            while not curve or curve[-1]["steps"] < total_steps:
                curve.append(_row(algorithm.train()))
                say(" ".join(f"{name} {value:.5g}" for name, value in curve[-1].items()))
                for name, value in curve[-1].items():
                    board.add_scalar(f"agent/{name}", value, int(curve[-1]["steps"]))
                # The curve first: a run killed in between has rows too many, which a resumption can drop.
                _keep(curve, folder)
                replace_folder(folder / CHECKPOINT, lambda new: algorithm.save_to_path(str(new)))
        agent = agent_of(_module(algorithm))
    finally:
        algorithm.stop()
    replace_file(folder / PLOT_FILE, _plot(curve).encode())
    if not any("loss" in row for row in curve):
        raise TrainingError(
            f"no update was made in {curve[-1]['steps']:.0f} steps, so nothing is learnt: an update takes a replay of "
            "warmup_steps, or a full one, and batch_size / training_intensity steps more; raise total_steps",
            file=str(folder),
        )
    agent.save(folder / AGENT_FILE)
    return Trained(folder, load_agent(folder / AGENT_FILE), int(curve[-1]["steps"]), curve)


def _module(algorithm: Algorithm) -> Any:
    module = algorithm.get_module()
    assert module is not None
    return module


def _row(result: dict[str, Any]) -> dict[str, float]:
    """One point of the curve, without what is a mean of nothing: no session ended, or no update was made.

    Raises: TrainingError: for any other number that is not finite.
    """
    played = result[ENV_RUNNER_RESULTS]
    learnt = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    row = {"steps": float(played[NUM_ENV_STEPS_SAMPLED_LIFETIME])}
    if played[NUM_EPISODES] > 0:
        row |= {"reward": float(played[EPISODE_RETURN_MEAN]), "videos": float(played[EPISODE_LEN_MEAN])}
    if learnt.get(NUM_MODULE_STEPS_TRAINED, 0) > 0:
        means = {"loss": "total_loss", "value": "qf_mean"}
        row |= {name: float(learnt[told]) for name, told in means.items() if told in learnt}
    wrong = [name for name, value in row.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(
            f"the training diverges: {' and '.join(wrong)} not finite after {row['steps']:.0f} steps; use a lower "
            "learning rate"
        )
    return row


def _finite(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _keep(curve: list[dict[str, float]], folder: Path) -> None:
    replace_file(folder / CURVE_FILE, "".join(json.dumps(row) + "\n" for row in curve).encode())


def _curve_so_far(folder: Path, algorithm: Algorithm) -> list[dict[str, float]]:
    """The rows up to the step of the checkpoint that the algorithm was restored from."""
    assert algorithm.metrics is not None
    played = float(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)))
    kept = [row for row in _rows(folder / CURVE_FILE) if row["steps"] <= played]
    if not kept or kept[-1]["steps"] != played:
        raise ConfigError(
            f"{CHECKPOINT} is of step {played:.0f}, of which {CURVE_FILE} has no row: one of the two is of another run",
            file=str(folder),
            field="resume",
        )
    return kept


def _rows(file: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            rows.append(_finite(dict(json.loads(line))))
            rows[-1]["steps"]
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataError(
                f"a JSON object of numbers with `steps` is required; found {line[:60]!r}, the file is damaged",
                file=str(file),
                row=number,
            ) from error
    return rows


def require_same(folder: Path, asked: Mapping[str, Any], *, unknown: Collection[str] = ()) -> None:
    """Ends what a crash left half done in the folder of a run, and refuses to go on with it for something else.

    Args: folder: of the run. asked: what for, as JSON. unknown: what is not known yet of what the run was asked for.
    Raises: ConfigError: for a run that cannot be resumed, or was asked for something else. DataError: for a damaged
        record of that.
    """
    recover_folder(folder / CHECKPOINT)
    if not (folder / CHECKPOINT).is_dir() or not all((folder / name).is_file() for name in (CONFIG_FILE, CURVE_FILE)):
        raise ConfigError("holds no checkpoint of an agent to go on from", file=str(folder), field="resume")
    # RLlib restores what is there of a checkpoint, and leaves the rest as it was made.
    for part in (MODULE_FOLDER, PLAYED_FOLDER):
        if not (folder / CHECKPOINT / part).is_dir():
            raise ConfigError(f"the checkpoint is damaged: it has no {part}", file=str(folder), field="resume")
    try:
        before = json.loads((folder / CONFIG_FILE).read_bytes())
    except ValueError as error:
        raise DataError(f"is no JSON, the file is damaged: {error}", file=str(folder / CONFIG_FILE)) from error
    if not isinstance(before, dict):
        raise DataError(f"is no JSON object, the file is damaged: {before!r}", file=str(folder / CONFIG_FILE))
    names = (before.keys() | asked.keys()) - set(unknown)
    others = sorted(name for name in names if name not in before or name not in asked or before[name] != asked[name])
    if others:
        raise ConfigError(
            f"the run was asked for something else, see {', '.join(others)} in {CONFIG_FILE}; give it the same options "
            "and data",
            file=str(folder),
            field="resume",
        )


def _plot(curve: list[dict[str, float]]) -> str:
    figure = go.Figure()
    for name in ("reward", "value"):
        rows = [row for row in curve if name in row]
        figure.add_scatter(x=[row["steps"] for row in rows], y=[row[name] for row in rows], name=name)
    figure.update_layout(xaxis_title="steps played", yaxis_title="reward of a session while exploring; mean value")
    return figure.to_html(include_plotlyjs=True)
