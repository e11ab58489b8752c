"""Deep Q-learning solves a task whose answer is known, and what it learnt is the same without RLlib."""

import json
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest

from rec.errors import ConfigError, DataError
from rec.models.session_agent import load_agent
from rl.session_env import SessionVectorEnv
from tests.rl.marshmallow import CONFIG, INPUTS, LATER, PATIENT, SWEET, Marshmallow

ASKED = CONFIG.model_dump(mode="json")


def chosen_at(score, stage, n=200):
    """The kind that a score chooses in each of many orders of the candidates."""
    rng = np.random.default_rng(stage)
    kind = np.array([rng.permutation(4) for _ in range(n)])
    seen = {"stage": np.full(n, stage), "kind": kind, "order": np.zeros((n, 4, 1), np.float32)}
    columns = score({"stage": seen["stage"]}, {"kind": kind, "order": seen["order"]}).argmax(axis=1)
    return set(kind[np.arange(n), columns])


@pytest.fixture(scope="module")
def trained(ray_session, tmp_path_factory):
    from rl.dqn import agent_of, dqn_config
    from rl.training import train_agent

    config = dqn_config(Marshmallow, INPUTS, CONFIG)
    folder = tmp_path_factory.mktemp("run")
    return config, train_agent(config, agent_of, total_steps=3000, asked=ASKED, folder=folder)


def test_it_learns_to_wait_for_more(trained):
    """Looking one step ahead would choose SWEET; the values are the optimum's, 1 now and .9 * 2 a step later."""
    agent = trained[1].agent
    assert chosen_at(agent.score, 0) == {PATIENT} and chosen_at(agent.score, 1) == {LATER}
    state = {"stage": np.array(0)}
    values = agent.score(state, {"kind": np.arange(4), "order": np.zeros((4, 1), np.float32)})
    assert values[PATIENT] == pytest.approx(1.8, abs=0.1)
    # Hardly tried any more in the end.
    assert values[SWEET] == pytest.approx(1, abs=0.2)


def test_the_file_acts_as_rllibs_module_does(trained):
    import torch
    from ray.rllib.core.columns import Columns

    config, run = trained
    algorithm = config.build_algo()
    algorithm.restore_from_path(str(run.folder / "checkpoint"))
    assert algorithm.env_runner.num_env_steps_sampled_lifetime == run.steps
    module, agent = algorithm.get_module(), load_agent(run.folder / "agent.safetensors")
    env = SessionVectorEnv(Marshmallow(500))
    seen, _ = env.reset(seed=5)
    batch = {Columns.OBS: {name: torch.as_tensor(values) for name, values in seen.items()}}
    actions = module.forward_inference(batch)[Columns.ACTIONS].numpy()
    algorithm.stop()
    scores = agent.score({"stage": seen["stage"]}, {"kind": seen["kind"], "order": seen["order"]})
    np.testing.assert_array_equal(scores.argmax(axis=1), actions)


def test_a_run_is_gone_on_with_and_refuses_other_options(trained):
    from rl.dqn import agent_of, dqn_config
    from rl.training import train_agent

    run, longer = trained[1], dqn_config(Marshmallow, INPUTS, CONFIG)
    again = partial(train_agent, longer, agent_of, folder=run.folder, resume=True)
    resumed = again(total_steps=run.steps + 500, asked=ASKED)
    assert resumed.steps > run.steps and resumed.curve[: len(run.curve)] == run.curve
    assert chosen_at(resumed.agent.score, 0) == {PATIENT}
    assert {"agent.safetensors", "curve.html", "curve.jsonl"} <= {file.name for file in run.folder.iterdir()}
    with pytest.raises(ConfigError, match="asked for something else"):
        again(total_steps=10, asked=ASKED | {"seed": 1})


@pytest.mark.usefixtures("ray_session")
def test_what_is_reported_of_learning_is_of_all_updates(monkeypatch):
    """Each value is the mean of what the learner said of every update, and not the last one's."""
    from rl.dqn import dqn_config

    algorithm: Any = dqn_config(Marshmallow, INPUTS, CONFIG).build_algo()
    learners, names = algorithm.learner_group, ("qf_mean", "qf_min", "qf_max")
    update, of_updates, known, weights = learners.update, [], [], []

    def noted(**given):
        known.append(len(algorithm.replay))
        weights.append(given["batch"].policy_batches["default_policy"]["weights"])
        answers = update(**given)
        of_updates.extend([float(answer["default_policy"][name].peek()) for name in names] for answer in answers)
        return answers

    monkeypatch.setattr(learners, "update", noted)
    try:
        learnt = algorithm.train()["learners"]["default_policy"]
    finally:
        algorithm.stop()
    assert len(of_updates) == algorithm.n_updates > 1
    assert learnt["num_module_steps_trained_lifetime"] == algorithm.n_updates * CONFIG.batch_size
    found = [float(learnt[name]) for name in names]
    assert found == pytest.approx(np.mean(of_updates, axis=0), rel=1e-4)
    assert found != pytest.approx(of_updates[-1], rel=1e-2)
    # The first update waits for the warm-up, and no longer; later ones draw, and weigh, by errors.
    at_once = CONFIG.sessions * CONFIG.steps_between_updates
    assert CONFIG.warmup_steps <= known[0] < CONFIG.warmup_steps + at_once
    assert len(np.unique(algorithm.replay._weight[: len(algorithm.replay)])) > 10
    assert weights[0].min() == 1 and weights[-1].min() < 0.9 and weights[-1].max() == 1


@pytest.mark.usefixtures("ray_session")
def test_the_learning_rate_falls_to_the_share_that_was_asked_for():
    """What the optimizer goes by at the start, halfway, and at the end."""
    from rl.dqn import dqn_config

    asked = CONFIG.model_copy(update={"learning_rate": 0.01, "final_learning_rate": 0.02})
    algorithm = dqn_config(Marshmallow, INPUTS, asked).build_algo()
    group: Any = algorithm.learner_group
    found = []
    for steps in (0, asked.total_steps // 2, asked.total_steps):
        played = {"num_env_steps_sampled_lifetime": steps}
        group.foreach_learner(lambda learner, played=played: learner.after_gradient_based_update(timesteps=played))
        rates = group.foreach_learner(lambda learner: learner.get_optimizer("default_policy").param_groups[0]["lr"])
        found += [float(rate.get()) for rate in rates]
    algorithm.stop()
    assert found == pytest.approx([0.01, 0.0051, 0.0002])


def test_a_run_that_was_killed_goes_on_from_its_last_whole_checkpoint(trained, tmp_path):
    """Killed between the two renames that put a checkpoint in place, with a row of the curve that is of later steps."""
    from rl.dqn import agent_of
    from rl.training import train_agent

    config, run = trained
    folder, curve, checkpoint = tmp_path / "run", tmp_path / "run/curve.jsonl", tmp_path / "run/checkpoint"
    shutil.copytree(run.folder, folder)
    rows = [json.loads(line) for line in curve.read_text().splitlines()]
    steps = rows[-1]["steps"]
    again = partial(train_agent, config, agent_of, total_steps=int(steps), asked=ASKED, folder=folder, resume=True)
    curve.write_text(curve.read_text() + json.dumps(rows[-1] | {"steps": steps + 500}) + "\n")
    shutil.copytree(checkpoint, folder / "checkpoint.new")
    checkpoint.rename(folder / "checkpoint.old")
    assert again().curve == rows
    assert [json.loads(line) for line in curve.read_text().splitlines()] == rows
    assert [path.name for path in folder.iterdir() if path.name.startswith("checkpoint")] == ["checkpoint"]
    curve.write_text(curve.read_text().partition("\n")[0])
    with pytest.raises(ConfigError, match="has no row"):
        again()
    curve.write_text("{\n")
    with pytest.raises(DataError, match=r"curve\.jsonl', row 1"):
        again()
    shutil.rmtree(checkpoint / "learner_group")
    with pytest.raises(ConfigError, match="the checkpoint is damaged"):
        again()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_runners_of_their_own_play_other_sessions_with_the_weights_that_are_learnt():
    import torch

    from rl.config import InstaTokConfig, InstaTokEnvConfig
    from rl.dqn import dqn_config
    from rl.instatok.agent_inputs import INPUTS as SEEN
    from rl.instatok.arena import Arena, VideoRound

    world = InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=12)
    asked = CONFIG.model_copy(update={"env_runners": 2, "sessions": 16, "warmup_steps": 100, "steps_per_report": 200})
    rounds = partial(VideoRound, Arena.of(InstaTokEnvConfig(world=world)))
    algorithm = dqn_config(rounds, SEEN, asked).build_algo()
    try:
        played = [algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"] for _ in range(2)]
        group: Any = algorithm.env_runner_group
        learners: Any = algorithm.learner_group
        learnt = learners.get_weights()["default_policy"]
        found = group.foreach_env_runner(
            lambda runner: (runner.module.get_state(), runner.env.unwrapped.round.users), local_env_runner=False
        )
    finally:
        algorithm.stop()
    assert played[0] >= 200 and played[1] >= played[0] + 200
    (weights, users), (others, other_users) = found
    assert (users != other_users).any()
    for name, weight in weights.items():
        torch.testing.assert_close(torch.as_tensor(weight), torch.as_tensor(others[name]))
        torch.testing.assert_close(torch.as_tensor(weight), torch.as_tensor(learnt[name]))
