"""What every user thinks of every movie, according to a simulator learned from the ratings."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from rec.errors import TrainingError
from two_stage.fitting import auc, fit_pairs, new_model
from two_stage.models import Simulator, load_released
from two_stage.movielens import MovieLens

TRAIN_SHARE, VALID_SHARE = 0.6, 0.8
STOP_AUC: Final = 0.735
EPOCHS, STEPS_PER_CHECK = 4, 500
RELEASED_CUT: Final = 0.764506
RELEVANT_SHARE: Final = 0.145
N_BEST: Final = 64
USERS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Simulation:
    """The world that logs come from and lists are judged by.

    Attributes:
        label: whether a pair is liked at a time drawn for it, (U, N).
        relevant: whether it is liked at the user's mean time, (U, N).
        time: the times drawn, float32, (U, N).
        mean_time: of each user's row of `time`, float32, (U,).
        best: each user's items that the simulator likes most at the mean time, best first, (U, N_BEST).
        cut: the probability above which a pair is liked.
    """

    label: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    time: NDArray[np.float32]
    mean_time: NDArray[np.float32]
    best: NDArray[np.int16]
    cut: float


def simulate(data: MovieLens, simulator: Simulator, cut: float | None, cache: Path) -> Simulation:
    """Labels of all pairs, from the cache where it holds them.

    Times are N(mean, std) of the user's own ratings; the seed is fixed, as the world is one and only logs vary.

    Args: cut: probability above which a pair is liked; None: such that RELEVANT_SHARE of the labels are.
    """
    mean, deviation = data.user_times()
    # The legacy generator, since the released models were judged on the times it draws.
    drawn = np.random.RandomState(0).normal(mean[:, None], deviation[:, None], (data.n_users, data.n_items))
    time = drawn.astype(np.float32)
    mean_time = torch.from_numpy(time).mean(dim=1).numpy()
    file = cache / f"labels-{_fingerprint(simulator, time, cut)}.npz"
    if not file.exists():
        label_p = _probabilities(simulator, torch.from_numpy(time))
        if cut is None:
            n_liked = round(RELEVANT_SHARE * label_p.size)
            cut = float(np.partition(label_p, -n_liked, axis=None)[-n_liked])
        label = label_p >= cut
        del label_p
        relevance = _probabilities(simulator, torch.from_numpy(mean_time)[:, None])
        best = torch.from_numpy(relevance).topk(N_BEST, dim=1).indices.to(torch.int16).numpy()
        cache.mkdir(parents=True, exist_ok=True)
        whole = file.with_suffix(".part.npz")
        bits = {"label": np.packbits(label, axis=1), "relevant": np.packbits(relevance > cut, axis=1)}
        np.savez(whole, best=best, cut=cut, **bits)
        whole.replace(file)
    kept = np.load(file)
    label, relevant = (
        np.unpackbits(kept[name], axis=1, count=data.n_items).view(np.bool_) for name in ("label", "relevant")
    )
    return Simulation(label, relevant, time, mean_time, kept["best"], float(kept["cut"]))


def released_simulator(data: MovieLens, folder: Path) -> Simulator:
    """The simulator the authors released."""
    simulator = Simulator(data)
    load_released(simulator, folder / "simulator.pt")
    return simulator


def own_simulator(data: MovieLens, seed: int, cache: Path) -> Simulator:
    """A simulator fitted to the first 60% of the ratings until its AUC on the next 20% is above STOP_AUC, cached.

    Raises: TrainingError: where EPOCHS epochs do not come to it; nothing is cached then.
    """
    simulator = new_model(Simulator, data, seed)
    file = cache / f"simulator-{seed}.safetensors"
    if file.exists():
        simulator.load_state_dict(load_file(file))
        return simulator.eval()
    first, second = (round(share * len(data.user)) for share in (TRAIN_SHARE, VALID_SHARE))
    user, item = torch.from_numpy(data.user), torch.from_numpy(data.item)
    time, liked = torch.from_numpy(data.time).float(), torch.from_numpy(data.liked).float()
    inputs = (user[:first], item[:first], time[:first])
    rng = np.random.default_rng([seed, 0])
    held_out = slice(first, second)
    best = 0.0
    for step in fit_pairs(simulator.pairs, simulator, inputs, liked[:first], epochs=EPOCHS, rng=rng):
        if step % STEPS_PER_CHECK == 0:
            with torch.no_grad():
                scores = simulator.pairs(user[held_out], item[held_out], time[held_out])
            reached = auc(scores.numpy(), data.liked[held_out])
            print(f"simulator: step {step}, validation AUC {reached:.4f}", flush=True)
            best = max(best, reached)
            if reached > STOP_AUC:
                break
    else:
        raise TrainingError(
            f"no simulator: in {EPOCHS} epochs its validation AUC came to {best:.4f}, and labels are those of one "
            f"above {STOP_AUC}; take another seed, or --reference"
        )
    cache.mkdir(parents=True, exist_ok=True)
    save_file(simulator.state_dict(), file)
    return simulator.eval()


@torch.no_grad()
def _probabilities(simulator: Simulator, time: Tensor) -> NDArray[np.float32]:
    """Of all pairs, (U, N); time: (U, N) or (U, 1)."""
    blocks = torch.arange(len(time)).split(USERS_AT_ONCE)
    return np.concatenate([simulator(users, time[users]).sigmoid().numpy() for users in blocks])


def _fingerprint(simulator: Simulator, time: NDArray[np.float32], cut: float | None) -> str:
    content = hashlib.sha256(repr(cut).encode())
    for value in simulator.state_dict().values():
        content.update(value.numpy().tobytes())
    content.update(np.ascontiguousarray(time[:, :8]).tobytes())
    return content.hexdigest()[:16]
