"""Means over the global batch."""

import pytest
import torch

from rec.losses.logged import batch_mean


def test_a_batch_without_rows_has_the_mean_0_on_every_worker():
    """Not NaN, which would spread to all weights; with a total over workers as without."""
    nothing = torch.zeros(0, requires_grad=True)
    for total in (None, lambda part: 2 * part):
        mean = batch_mean(nothing, total)
        assert mean.item() == 0


def test_the_mean_of_the_parts_is_the_mean():
    parts = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([11.0])
    everywhere = torch.tensor([2.0, 4.0], dtype=torch.float64)
    means = [batch_mean(part, lambda _: everywhere).item() for part in parts]
    assert sum(means) / 2 == pytest.approx(20 / 4)
    assert batch_mean(torch.cat(parts), None).item() == pytest.approx(5)
