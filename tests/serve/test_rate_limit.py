"""Token buckets: no more than burst + rate * time, whoever waits as told is answered, and keys do not share."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.rate_limit import CAPACITY, RateLimit


@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_in_any_stretch_of_time_at_most_the_burst_and_the_rate_pass(rate: float, burst: int, gaps: list[float]):
    clock = [0.0]
    limit = RateLimit(rate, burst, clock=lambda: clock[0])
    passed = []
    for gap in gaps:
        clock[0] += gap
        if limit.wait_s("k") == 0:
            passed.append(clock[0])
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - start) + 1e-6


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 5))
def test_whoever_waits_as_told_is_answered(rate: float, burst: int):
    clock = [0.0]
    limit = RateLimit(rate, burst, clock=lambda: clock[0])
    waits = [limit.wait_s("k") for _ in range(burst + 3)]
    assert waits[:burst] == [0.0] * burst and all(wait > 0 for wait in waits[burst:])
    assert all(b == pytest.approx(a) for a, b in pairwise(waits[burst:])), "refusals take nothing"
    clock[0] += waits[-1]
    assert limit.wait_s("k") == 0.0
    assert limit.wait_s("k") == pytest.approx(1 / rate)


def test_keys_do_not_share_and_memory_is_bounded():
    limit = RateLimit(1.0, 1, clock=lambda: 0.0)
    assert limit.wait_s("a") == 0.0 and limit.wait_s("a") > 0 and limit.wait_s("b") == 0.0
    for number in range(2 * CAPACITY):
        assert limit.wait_s(f"k{number}") == 0.0
    assert len(limit._buckets) <= CAPACITY
