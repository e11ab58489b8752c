"""Days of a service over HTTP: what people did is what the cycle judges by, and what it promotes is what they get."""

import math
from pathlib import Path

import numpy as np
import pytest

from rec.cli.loop import SLATE, Loop, begin, serve_config, told
from rec.config import GateConfig
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from serve.app import start

VISITS = 600
# Wide open: what is seen is that all parts meet.
OPEN = GateConfig(
    margin=-100,
    min_ess=1,
    min_impressions=VISITS,
    min_coverage_ratio=0,
    max_latency_ratio=100,
    max_calibration_rise=1,
)


@pytest.mark.slow
def test_people_use_a_service_that_takes_what_the_cycle_promotes_and_no_poison(
    tmp_path: Path, ray_session: None
) -> None:
    world = InstaTok(InstaTokConfig(n_users=120, n_videos=120, max_steps=SLATE, seed=3))
    home = str(tmp_path / "home")
    first = begin(world, home, n_visits=4000, rng=np.random.default_rng(0))
    with start(serve_config(home)) as server:
        loop = Loop(server, home, n_visits=VISITS, seed=0)
        one = loop.day(world, gate=OPEN)
        # No effective sample is too small: what the gate refuses it refuses by the gain. So few visits cannot show that
        # the poison loses, as those of benchmarks/quality/loop_http.py do, but that another does not lose as much.
        two = loop.day(world, gate=OPEN.model_copy(update={"margin": -0.15}), poison=True)
    (promoted,), (poison, honest) = one["cycles"], two["cycles"]
    assert promoted["status"] == "promoted", promoted["reasons"]
    assert [one["version"], two["version"]] == [first, promoted["challenger"]]
    assert poison["poisoned"] and poison["status"] == "refused"
    (why,) = poison["reasons"]
    assert why.startswith("lower bound of the gain") and poison["true_value"] < two["true_value"] - 0.1
    assert honest["status"] == "promoted", honest["reasons"]
    assert Registry(Home(home)).current() == honest["challenger"]
    for day in (one, two):
        assert day["versions"] == {day["version"]: VISITS} and day["cut_off"] == 0
        reward = day["reward"]
        assert reward["n"] == VISITS
        assert math.isclose(reward["value"], day["true_value"], abs_tol=5 * reward["std_error"])
        assert day["version"] in told(day)
    for cycle in (promoted, poison):
        assert cycle["reproduced"] == 1
        assert cycle["comparison"]["champion"]["n"] == pytest.approx(VISITS, abs=3)
    # What people did is what the log says they did, but for those who were slower than the attribution window is long.
    assert promoted["comparison"]["champion"]["value"] == pytest.approx(one["reward"]["value"], abs=0.05)
