"""The two-stage loss beside a peer that loops over rows, forward and backward, with plain cross-entropy as the floor.

Run: python benchmarks/speed/two_stage_loss.py [--batch 128] [--items 3883] [--threads 2] [--slates 100]
Expect: `ratio`, the peer's median over ours, above 10; kept in benchmarks/results/two_stage_loss.json. All take turns
in one process, so that what else runs there slows them alike; `whole_tensor` is ours without the compiled loop.
The peer takes the steps of the code released with Ma et al. (2020): rows in a loop, the slates of a row vectorised.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.losses import cross_entropy, ips, two_stage_ips  # noqa: E402
from rec.losses.slates import whole_tensor_objective  # noqa: E402

REPEATS = 20
ALPHA, FLOOR, CAP = 1e-2, 0.01, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = (("batch", 128), ("items", 3883), ("threads", 2), ("slates", 100), ("slate-size", 30), ("seed", 0))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(given.seed)
    logits = 2 * torch.randn(given.batch, given.items, generator=generator)
    ranker = torch.randn(given.batch, given.items, generator=generator)
    actions = torch.randint(given.items, (given.batch,), generator=generator)
    propensities = (torch.randn(given.batch, given.items, generator=generator)).softmax(1)
    propensities = propensities.gather(1, actions[:, None])[:, 0]
    logits.requires_grad_()
    options = {"n_slates": given.slates, "slate_size": given.slate_size}
    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: two_stage_ips(logits, actions, propensities, ranker, generator=generator, **options),
        "peer": lambda: row_by_row(logits, actions, propensities, ranker, generator=generator, **options),
        "whole_tensor": lambda: whole_tensor(logits, actions, propensities, ranker, generator=generator, **options),
        "ips": lambda: ips(logits, actions, propensities),
        "cross_entropy": lambda: cross_entropy(logits, actions),
        "torch_cross_entropy": lambda: functional.cross_entropy(logits, actions),
    }
    agreement = {name: _norm(losses[name], logits) for name in ("ours", "peer", "whole_tensor")}
    turns = [[_milliseconds(loss, logits) for loss in losses.values()] for _ in range(REPEATS + 1)]
    # The first turn warms up.
    times = np.array(turns[1:])
    found = {name: _summary(column) for name, column in zip(losses, times.T, strict=True)}
    rng = np.random.default_rng(given.seed)
    medians = np.median(times[rng.integers(0, REPEATS, (2000, REPEATS))], axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], [0.025, 0.975])
    result = {
        "name": "two_stage_loss",
        "command": command(),
        "git_sha": git_sha(),
        "machine": machine(),
        "protocol": {**vars(given), "gradient_norm": agreement},
        "unit": "ms",
        "repeats": REPEATS,
        "ours": found["ours"],
        "peer": {"name": "rows in a loop, slates vectorised", "version": f"torch {torch.__version__}", **found["peer"]},
        "ratio": found["peer"]["median"] / found["ours"]["median"],
        "ratio_low": float(low),
        "ratio_high": float(high),
        "beside": {name: found[name] for name in list(losses)[2:]},
    }
    write_result(result)
    for name, row in found.items():
        print(f"{name:20} {row['median']:8.2f} ms   p10 {row['p10']:8.2f}   p90 {row['p90']:8.2f}", file=sys.stderr)
    print(json.dumps(result))


def row_by_row(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    ranker: Tensor,
    *,
    n_slates: int,
    slate_size: int,
    generator: torch.Generator,
) -> Tensor:
    """The peer: for each row one multinomial draw, then sorting, padding what repeats, softmax over what is left."""
    n_rows, n_items = logits.shape
    drawn_from = (logits.detach() / math.e).softmax(1)
    log_p = functional.pad(logits.log_softmax(1), (0, 1))
    scores = functional.pad(ranker, (0, 1), value=-math.inf)
    log_p_action = log_p.gather(1, actions[:, None])[:, 0]
    weights = (log_p_action.detach().exp() / propensities).clamp(FLOOR, CAP)
    weights = weights / weights.mean()
    chosen, beside = [], []
    for row in range(n_rows):
        slates = torch.multinomial(drawn_from[row], n_slates * (slate_size - 1), replacement=True, generator=generator)
        slates = functional.pad(slates.view(n_slates, -1), (0, 1), value=int(actions[row])).sort(1).values
        repeated = functional.pad(slates[:, 1:] == slates[:, :-1], (1, 0))
        slates = slates.masked_fill(repeated, n_items).sort(1).values
        share = scores[row][slates].softmax(1)[slates == actions[row]]
        chosen.append((weights[row] * share).mean())
        beside.append((weights[row] * share * (log_p[row][slates].sum(1) - log_p[row, actions[row]])).mean())
    return -(torch.stack(chosen) * log_p_action).mean() - ALPHA * torch.stack(beside).mean()


def whole_tensor(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    ranker: Tensor,
    *,
    n_slates: int,
    slate_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Our loss as other devices compute it, in operations on whole tensors."""
    log_p = logits.log_softmax(1)
    weights = (log_p.detach().gather(1, actions[:, None])[:, 0].exp() / propensities).clamp(FLOOR, CAP)
    objective = whole_tensor_objective(
        log_p,
        (logits.detach() / math.e).softmax(1),
        ranker - ranker.gather(1, actions[:, None]),
        actions,
        torch.rand(len(logits), n_slates, slate_size - 1, generator=generator),
        alpha=ALPHA,
        first=torch.arange(logits.shape[1])[None],
    )
    return -(weights / weights.mean() * objective).mean()


def _norm(loss: Callable[[], Tensor], logits: Tensor) -> float:
    logits.grad = None
    loss().backward()
    assert logits.grad is not None
    return float(logits.grad.norm())


def _milliseconds(loss: Callable[[], Tensor], logits: Tensor) -> float:
    logits.grad = None
    started = time.perf_counter()
    loss().backward()
    return (time.perf_counter() - started) * 1000


def _summary(times: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


if __name__ == "__main__":
    main()
