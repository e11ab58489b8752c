"""Streams are Philox as published, alike and independent wherever they are drawn."""

import numpy as np
import pytest

from rl.streams import philox, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # The known answers published with the authors' library Random123.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected):
    words = philox(np.array([counter], np.uint64), np.array([key], np.uint64))
    assert tuple(words[0].tolist()) == expected


def test_a_session_draws_the_same_alone_and_among_others():
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    episodes, steps = rng.integers(0, 2**32, 1000), rng.integers(0, 2**32, 1000)
    together = uniforms(seeds, episodes, steps)
    for row in (0, 1, 999):
        alone = uniforms(seeds[[row]], episodes[[row]], steps[[row]])
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("varied", [0, 1, 2])
def test_uniform_and_uncorrelated_along_each_argument(varied):
    n = 100_000
    place = [np.full(n, 7), np.full(n, 3), np.full(n, 5)]
    place[varied] = np.arange(n)
    drawn = uniforms(place[0].astype(np.uint64), place[1], place[2])
    assert drawn.min() >= 0 and drawn.max() < 1
    assert len(np.unique(drawn)) == 2 * n
    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in drawn.T])
    chi2 = ((counts - n / 20) ** 2 / (n / 20)).sum(axis=1)  # 19 degrees of freedom: mean 19, deviation 6.2
    assert (chi2 < 19 + 4 * 6.2).all()
    neighbours = [np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1], np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]]
    assert np.abs(neighbours).max() < 4 / np.sqrt(n)
