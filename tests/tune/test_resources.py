"""Trials and their workers have the CPUs they wait for."""

import pytest

from rec.errors import ConfigError
from tune.resources import concurrent_trials


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
