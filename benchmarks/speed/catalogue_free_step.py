"""A training step of the two-stage loss without the catalogue's logits, at several sizes of the catalogue.

Run: python benchmarks/speed/catalogue_free_step.py [--items 10000 100000 1000000] [--rebuild-every 1000] [--draws 256]
Expect: a step that costs about as much at a million items as at ten thousand, and the index's rebuilding apart, also
spread over the steps until the next one; kept in benchmarks/results/catalogue_free_step_ITEMS.json. A step searches the
index for each user's neighbours, draws items, computes loss and gradient, and moves users and items by SparseAdam. The
peer, up to --peer-items, is the same step with the logits of all items; SparseAdam does not take its gradient, so the
ratio is of both without the optimizer. Both times of each size go to stderr. Towers are tables of embeddings and the
ranker costs nothing: what a real ranker takes to score the draws comes on top.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.config import IndexConfig  # noqa: E402
from rec.losses import sampled_two_stage_ips, two_stage_ips  # noqa: E402
from rec.proposals import Proposal  # noqa: E402
from rec.retrieval.index import ItemIndex  # noqa: E402

REPEATS = 20
N_USERS = 10_000
TEMPERATURE = 0.07
UNIFORM_SHARE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    settings = (("batch", 128), ("draws", 256), ("neighbors", 256), ("size", 64), ("rebuild-every", 1000))
    for name, default in (*settings, ("peer-items", 100_000), ("threads", 2), ("probes", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for n_items in given.items:
        result = measured(n_items, given)
        write_result(result)
        _print(n_items, result)
        print(json.dumps(result))


def measured(n_items: int, given: argparse.Namespace) -> dict[str, Any]:
    """The result at one size of the catalogue."""
    generator = torch.Generator().manual_seed(given.seed)
    users, items = _table(N_USERS, given.size, generator), _table(n_items, given.size, generator)
    optimizer = torch.optim.SparseAdam([users.weight, items.weight], lr=1e-3)
    config = IndexConfig(kind="ivf", ivf_probes=given.probes)
    started = time.perf_counter()
    index = ItemIndex.build(items.weight.detach().numpy(), config)
    build_s = time.perf_counter() - started
    parts: dict[str, list[float]] = {"search": [], "draw": [], "loss_and_gradient": [], "optimizer": []}

    def step(loss: Callable[[Tensor, Tensor], Tensor], moves: bool = True) -> float:
        """Milliseconds of a step; the loss takes users' embeddings and logged items."""
        row = torch.randint(N_USERS, (given.batch,), generator=generator)
        actions = torch.randint(n_items, (given.batch,), generator=generator)
        started = time.perf_counter()
        loss(users(row), actions).backward()
        learned = time.perf_counter()
        if moves:
            optimizer.step()
        done = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        parts["optimizer"].append(1000 * (done - learned))
        return 1000 * (done - started)

    propensities = torch.full((given.batch,), 1e-3)

    def sampled(vectors: Tensor, actions: Tensor) -> Tensor:
        begun = time.perf_counter()
        found, scores = index.search(vectors.detach().numpy(), given.neighbors)
        searched = time.perf_counter()
        proposal = Proposal.of(
            torch.from_numpy(found),
            torch.from_numpy(scores),
            n_items=n_items,
            uniform_share=UNIFORM_SHARE,
            temperature=TEMPERATURE,
        )
        draws = proposal.draw(torch.rand(given.batch, given.draws, generator=generator, dtype=torch.float64))
        drawn = time.perf_counter()
        parts["search"].append(1000 * (searched - begun))
        parts["draw"].append(1000 * (drawn - searched))
        return sampled_two_stage_ips(
            vectors,
            items,
            actions,
            propensities,
            *draws,
            _ranker,
            temperature=TEMPERATURE,
            generator=generator,
        )

    def full(vectors: Tensor, actions: Tensor) -> Tensor:
        ranker = _ranker(torch.arange(n_items)).expand(given.batch, n_items)
        logits = vectors @ items.weight.T / TEMPERATURE
        return two_stage_ips(logits, actions, propensities, ranker, generator=generator)

    step(sampled)
    for times in parts.values():
        times.clear()
    ours = np.array([step(sampled) for _ in range(REPEATS)])
    unmoved = ours - np.array(parts["optimizer"])
    # What is left of a step: the loss, its gradient, and the lookups of both.
    parts["loss_and_gradient"] = list(unmoved - sum(np.array(parts[name]) for name in ("search", "draw")))
    found = {name: _summary(np.array(times)) for name, times in parts.items()}
    peer: dict[str, Any] | None = None
    if n_items <= given.peer_items:
        # Its gradient holds every item, which SparseAdam does not take.
        step(full, moves=False)
        times = np.array([step(full, moves=False) for _ in range(REPEATS)])
        version = f"torch {torch.__version__}"
        peer = {"name": "logits of all items, without optimizer", "version": version, **_summary(times)}
        rng = np.random.default_rng(given.seed)
        chosen = rng.integers(0, REPEATS, (2000, REPEATS))
        low, high = np.quantile(np.median(times[chosen], 1) / np.median(unmoved[chosen], 1), [0.025, 0.975])
    return {
        "name": f"catalogue_free_step_{n_items}",
        "command": command(),
        "git_sha": git_sha(),
        "machine": machine(),
        "protocol": {**vars(given), "items": n_items, "temperature": TEMPERATURE, "uniform_share": UNIFORM_SHARE},
        "unit": "ms",
        "repeats": REPEATS,
        "ours": _summary(ours),
        "parts": found,
        "index": {
            "kind": config.kind,
            "build_s": build_s,
            "rebuild_every": given.rebuild_every,
            "amortised_ms": 1000 * build_s / given.rebuild_every,
        },
        "peer": peer,
        "ratio": None if peer is None else peer["median"] / float(np.median(unmoved)),
        "ratio_low": None if peer is None else float(low),
        "ratio_high": None if peer is None else float(high),
    }


def _table(n: int, size: int, generator: torch.Generator) -> nn.Embedding:
    weight = functional.normalize(torch.randn(n, size, generator=generator), dim=1)
    return nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)


def _ranker(ids: Tensor) -> Tensor:
    """A ranker that costs nothing: a fixed number of each item between -2 and 2."""
    return torch.sin(ids.float()) * 2


def _print(n_items: int, result: dict[str, Any]) -> None:
    """Both absolute times of a size, and what rebuilding the index adds to each step."""
    peer, index = result["peer"], result["index"]
    print(
        f"{n_items:>9,} items   ours {result['ours']['median']:8.2f} ms + {index['amortised_ms']:.2f} ms of rebuilding"
        f"   peer {'not measured' if peer is None else format(peer['median'], '8.2f') + ' ms'}",
        file=sys.stderr,
    )


def _summary(times: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


if __name__ == "__main__":
    main()
