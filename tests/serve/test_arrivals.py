import asyncio
from time import perf_counter

import numpy as np
import pytest

from serve.arrivals import LATE_S, Arrivals


def test_gaps_are_exponential_and_those_of_the_seed():
    """Mean and deviation of the gaps are both 1 / rate; four standard errors."""
    due = np.array(Arrivals(50, 20_000, np.random.default_rng(3))._due_s)
    gaps = np.diff(due, prepend=0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, abs=4 / 50 / 20_000**0.5)
    assert gaps.std() == pytest.approx(1 / 50, abs=4 * 2**0.5 / 50 / 20_000**0.5)
    assert due.tolist() == Arrivals(50, 20_000, np.random.default_rng(3))._due_s


def test_what_is_due_is_waited_for_and_what_is_late_is_told():
    arrivals = Arrivals(100, 40, np.random.default_rng(0))

    async def come() -> tuple[float, list[float]]:
        started, dues = perf_counter(), []
        for place in range(30):
            dues.append(await arrivals.wait(place))
            assert perf_counter() >= dues[-1]
        await asyncio.sleep(4 * LATE_S)  # nobody there to take the next ones
        for place in range(30, 40):
            dues.append(await arrivals.wait(place))
        return started, dues

    started, dues = asyncio.run(come())
    assert np.subtract(dues, started) == pytest.approx(arrivals._due_s, abs=0.05)
    told = arrivals.to_json()
    assert told["asked_per_s"] == 100 and told["late"] >= 1 and not told["kept"] and told["latest_s"] > LATE_S


def test_what_comes_in_time_is_no_failure_to_keep_the_rate():
    arrivals = Arrivals(1000, 1, np.random.default_rng(0))
    arrivals._late_s = [LATE_S / 2, 0.0]
    assert arrivals.to_json() == {"asked_per_s": 1000, "late": 0, "latest_s": LATE_S / 2, "kept": True}
