"""The gradient that a worker has of its part of a batch: python in_parts.py RANK WORLD MEETING_FILE OUTPUT_FILE."""

import math
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rec.losses import (
    dr,
    ips,
    regression,
    sampled_ips,
    sampled_two_stage_ips,
    top_k_reinforce,
    two_stage_ips,
    weighted_log_likelihood,
)
from rec.sampling import row_uniforms
from rec.training import Worker

N_ROWS, N_ITEMS, N_SLATES, SLATE_SIZE = 13, 9, 6, 4


def gradients(worker: Worker) -> dict[str, np.ndarray]:
    """Of each loss, averaged over the workers as DistributedDataParallel does."""
    generator = torch.Generator().manual_seed(0)
    users, ranker = torch.randn(2, N_ROWS, N_ITEMS, generator=generator)
    actions = torch.randint(N_ITEMS, (N_ROWS,), generator=generator)
    propensities = 0.02 + 0.9 * torch.rand(N_ROWS, generator=generator)
    # All the clicks but one are on one worker.
    rewards = torch.tensor([1.0, 0, 2, 1, 0, 1, 0, 0, 0, 0, 0.5, 0, 0])
    draws = torch.randint(N_ITEMS, (N_ROWS, 5), generator=generator)
    weight = torch.randn(N_ITEMS, N_ITEMS, generator=generator)
    found = {}

    def add(name: str, n: int, loss) -> None:
        rows = worker.part(n)
        shared = weight.clone().requires_grad_()
        part = loss(users[rows] @ shared, rows, total=worker.total)
        part.backward()
        value = worker.total(torch.cat([shared.grad.flatten(), part.detach().view(1)])) / worker.world
        found[f"{name} {n}"] = value.numpy()

    def uniforms(rows: slice) -> Tensor:
        numbers = row_uniforms([0, 7], rows, N_SLATES * (SLATE_SIZE - 1))
        return torch.from_numpy(numbers).view(-1, N_SLATES, SLATE_SIZE - 1)

    # A batch that two workers cannot share evenly, and one that leaves a worker nothing.
    for n in (N_ROWS, 1):
        for over in ("clicked", "all"):
            for loss in (ips, top_k_reinforce):
                add(
                    f"{loss.__name__} {over}",
                    n,
                    lambda logits, rows, total, loss=loss, over=over: loss(
                        logits,
                        actions[rows],
                        propensities[rows],
                        rewards=rewards[rows],
                        normalize_over=over,
                        total=total,
                    ),
                )
            add(
                f"two_stage_ips {over}",
                n,
                lambda logits, rows, total, over=over: two_stage_ips(
                    logits,
                    actions[rows],
                    propensities[rows],
                    ranker[rows],
                    rewards=rewards[rows],
                    n_slates=N_SLATES,
                    slate_size=SLATE_SIZE,
                    alpha=0.5,
                    normalize_over=over,
                    uniforms=uniforms(rows),
                    total=total,
                ),
            )
        add(
            "sampled_ips",
            n,
            lambda vectors, rows, total: sampled_ips(
                vectors,
                ranker.__getitem__,
                actions[rows],
                propensities[rows],
                draws[rows],
                torch.full((len(vectors), draws.shape[1]), -math.log(N_ITEMS)),
                rewards=rewards[rows],
                total=total,
            ),
        )
        add(
            "sampled_two_stage_ips",
            n,
            lambda vectors, rows, total: sampled_two_stage_ips(
                vectors,
                ranker.__getitem__,
                actions[rows],
                propensities[rows],
                draws[rows],
                torch.full((len(vectors), draws.shape[1]), -math.log(N_ITEMS)),
                lambda ids: ids.float(),
                rewards=rewards[rows],
                n_slates=N_SLATES,
                slate_size=SLATE_SIZE,
                uniforms=uniforms(rows),
                total=total,
            ),
        )
        add(
            "dr",
            n,
            lambda logits, rows, total: dr(
                logits,
                actions[rows],
                propensities[rows],
                rewards[rows],
                ranker[rows],
                self_normalize=True,
                total=total,
            ),
        )
        add(
            "weighted_log_likelihood",
            n,
            lambda logits, rows, total: weighted_log_likelihood(
                logits, actions[rows], propensities[rows], rewards=rewards[rows], self_normalize=True, total=total
            ),
        )
        add(
            "regression",
            n,
            lambda logits, rows, total: regression(logits, actions[rows], rewards[rows], total=total),
        )
    return found


def main() -> None:
    rank, world, meeting, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    np.savez(output, **gradients(Worker(rank, world)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
