"""Trials and their workers have the CPUs they wait for."""

import pytest

from rec.config import TrainConfig, TrainingConfig
from rec.errors import ConfigError
from rl.config import DQNTrainConfig
from tune.resources import concurrent_trials, reserved


@pytest.mark.parametrize("workers", range(9))
@pytest.mark.parametrize("asked", [None, 1, 3])
def test_every_trial_and_all_its_workers_have_a_cpu(workers, asked):
    for cpus in range(1 + workers, 40):
        n = concurrent_trials(cpus, workers, asked)
        assert n * (1 + workers) <= cpus
        assert n == asked or (n + 1) * (1 + workers) > cpus
        assert asked is None or n <= asked


@pytest.mark.parametrize("workers", range(9))
def test_fewer_cpus_than_one_trial_takes_are_refused(workers):
    for cpus in range(1 + workers):
        with pytest.raises(ConfigError, match=f"a trial takes {1 + workers} CPUs"):
            concurrent_trials(cpus, workers, None)


def test_part_of_a_cpu_is_none():
    assert concurrent_trials(3.9, 1, None) == 1


@pytest.mark.parametrize("workers", range(1, 4))
def test_trials_that_wait_leave_a_machine_to_the_workers_of_one(workers):
    """However many of them came to the machine that is left, if it has a CPU more than the workers."""
    config = TrainConfig(training=TrainingConfig(workers=workers))
    held = 20 * sum(bundle["CPU"] for bundle in reserved(config))
    assert 1 + workers - held >= workers


def test_what_nobody_else_reserves_a_trial_does():
    assert reserved(TrainConfig(training=TrainingConfig(workers=0))) == [{"CPU": 1.0}]
    assert reserved(DQNTrainConfig(env_runners=2)) == [{"CPU": 1.0}] * 3
