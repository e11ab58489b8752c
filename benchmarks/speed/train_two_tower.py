"""Training a two-tower model on MovieLens-1M beside torch-rechub, on the same rows with the same towers.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0 torch-rechub==0.9.0
    TANDEM_DATA=/path/to/data python benchmarks/speed/train_two_tower.py --peer-python /tmp/peer/bin/python

Writes benchmarks/results/train_two_tower.json. Both train an epoch of the same rows, a like each, in batches of one
size, against all the others of the batch, at the same learning rate, on the same cores, in turns. The towers read an
embedding of the id, numbers as of the time, and the mean embedding of the last 50 items; an MLP of 128 and 64 follows.
Embeddings of other features are left out, as the peer joins only embeddings of one size.

The peer has two losses over the batch: that of its trainer (`dssm`), which draws negatives for one row after the other,
and that of its sampling-bias-corrected model (`sbc`, with --models dssm sbc), which computes each cosine from the two
vectors and takes many times as long. Each is measured with the library's DataLoader, and with batches that lie ready in
memory, which no real run has. The fastest with a DataLoader is the peer of the ratio. Before any epoch both sides must
have as many parameters, and on a batch of different items, from the same weights, the same vectors and the same loss.

Ours is `fit_epoch`, which draws the batches and looks up features and histories as it goes. --ray also trains on one
Ray Train worker, and says what that costs beside this process.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, compared, data_folder, machine, write_result  # noqa: E402
from benchmarks.speed.peer import Ask, peer  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.config import (  # noqa: E402
    BranchConfig,
    DataConfig,
    QueriesConfig,
    RetrieverConfig,
    TowerConfig,
    TrainConfig,
    TrainingConfig,
    UserTowerConfig,
)
from rec.data.dataset import Dataset  # noqa: E402
from rec.data.source import read_dataset  # noqa: E402
from rec.losses import logq_softmax  # noqa: E402
from rec.models.two_tower import HISTORY, TwoTower  # noqa: E402
from rec.on_ray.cluster import ensure_ray  # noqa: E402
from rec.on_ray.train import train  # noqa: E402
from rec.preparation import prepare  # noqa: E402
from rec.retriever.fits import likes_task  # noqa: E402
from rec.retriever.task import RetrieverTask  # noqa: E402
from rec.training import Optimizers, Worker, fit_epoch  # noqa: E402

HIDDEN, OUTPUT = 128, 64
MODELS: Final = ("dssm", "sbc")
BATCHES_FROM: Final = ("loader", "ready")
CPU: Final = torch.device("cpu")


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    world = World.of(read_movielens(data_folder()), options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.npz"
        np.savez(file, **world.given(), settings=json.dumps(world.settings()))
        script = Path(__file__).with_name("train_two_tower_peer.py")
        with peer(options.peer_python, script, str(file), str(len(cores))) as ask:
            said = ask(None)
            agreement = {name: world.agreement(ask, name, said["parameters"][name]) for name in options.models}
            print(f"{said['parameters']} parameters; largest differences {agreement}", flush=True)
            seconds = measured(world, ask, options.models, options.repeats)
    named = {"name": "torch-rechub", "version": said["version"], "torch": said["torch"]}
    rows = [
        {"model": model, "batches_from": source, **compared(seconds["ours"], seconds[f"{model} {source}"], named)}
        for model in options.models
        for source in BATCHES_FROM
    ]
    for row in rows:
        row["peer"]["rows_per_s"] = 1000 * world.rows / row["peer"]["median"]
        row["ours"]["rows_per_s"] = 1000 * world.rows / row["ours"]["median"]
        print(line(row), flush=True)
    fastest = min(rows[:: len(BATCHES_FROM)], key=lambda row: row["peer"]["median"])
    result = {
        "name": "train_two_tower",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {
            "rows": world.rows,
            **world.settings(),
            "features": [*world.specs],
            "parameters": sum(parameter.numel() for parameter in world.model.parameters()),
            "cores": len(cores),
            "largest_differences": agreement,
            "peer_model": fastest["model"],
        },
        "unit": "ms",
        "repeats": options.repeats,
        **{key: fastest[key] for key in ("ours", "peer", "ratio", "ratio_low", "ratio_high")},
        "rows": rows,
    }
    if options.ray:
        result["ray_train"] = on_ray(world, float(np.median(seconds["ours"])))
        print(f"on a Ray Train worker: {result['ray_train']}", flush=True)
    write_result(result)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has torch-rechub")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["dssm"], help="of the peer")
    parser.add_argument("--batches", type=int, default=50, help="of an epoch")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--cores", type=int, default=1, help="and threads, of each side")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--ray", action="store_true")
    return parser.parse_args()


def read_movielens(folder: Path) -> tuple[Dataset, DataConfig]:
    data = DataConfig(name="movielens-1m", path=str(folder / "ml-1m"))
    return read_dataset(data), data


@dataclass(frozen=True)
class World:
    """The epoch that both sides train.

    Attributes:
        task: ours.
        training: ours.
        model: with the weights that both begin with.
        queries, items: of the epoch's rows, (rows,) both.
    """

    task: RetrieverTask
    training: TrainingConfig
    model: TwoTower
    queries: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def of(cls, movielens: tuple[Dataset, DataConfig], options: argparse.Namespace) -> Self:
        """An epoch of likes, drawn from all of them without repeating one."""
        dataset, data = movielens
        training = TrainingConfig(workers=0, epochs=1, batch_size=options.batch_size)
        plain = TrainConfig(data=data, training=training)
        ready = prepare(dataset, plain)
        numbers = {
            side: tuple(n for n, spec in ready.encoders.specs.items() if spec.side == side and spec.kind == "numeric")
            for side in ("user", "item")
        }
        retriever = RetrieverConfig(
            objective="logq",
            user_tower=UserTowerConfig(
                branches=(BranchConfig(features=("user_id", HISTORY, *numbers["user"])),),
                without=(),
                history_windows=(50,),
                hidden=(HIDDEN,),
            ),
            item_tower=TowerConfig(branches=(BranchConfig(features=("item_id", *numbers["item"])),), hidden=(HIDDEN,)),
            output_dim=OUTPUT,
            positives_per_query=1,
            mask_known=False,
            # The peer's trainer has none: its scores are cosines.
            softmax_temperature=1.0,
            queries=QueriesConfig(
                snapshots=1,
                horizon_days=None,
                half_life_days=None,
                min_batches=1,
                epoch_share=options.batches * options.batch_size / len(ready.split.train),
            ),
        )
        config = plain.model_copy(update={"retriever": retriever})
        task = likes_task(ready, config, len(ready.period_starts) - 1, judged=False)
        drawn = task.plan(0)
        torch.manual_seed(0)
        return cls(
            task,
            training,
            task.build_model(),
            np.concatenate([batch.queries for batch in drawn]),
            np.concatenate([batch.targets[:, 0] for batch in drawn]),
        )

    @property
    def rows(self) -> int:
        """Rows of the epoch."""
        return len(self.queries)

    @property
    def specs(self) -> tuple[str, ...]:
        """What the towers read."""
        return tuple(name for side in self._features().values() for name in side)

    def settings(self) -> dict[str, Any]:
        """What the peer has to know beside arrays."""
        read = self._features()
        return {
            "batch_size": self.training.batch_size,
            "dims": [HIDDEN, OUTPUT],
            "history": self.model.history_length,
            "user_numbers": list(read["user"][2:]),
            "item_numbers": list(read["item"][1:]),
            "learning_rate": self.training.learning_rate,
            "weight_decay": self.training.weight_decay,
        }

    def given(self) -> dict[str, NDArray]:
        """What the peer reads: the rows of the epoch, those to compare on, and the weights."""
        towers = {"user": self.model.user_tower, "item": self.model.item_tower}
        weights = {f"w/{side}_id": towers[side].embeddings[f"{side}_id"].table.weight for side in towers}
        for side, tower in towers.items():
            linear = [layer for layer in tower.join if isinstance(layer, nn.Linear)]
            for place, layer in enumerate(linear):
                weights |= {f"w/{side}.{place}.weight": layer.weight, f"w/{side}.{place}.bias": layer.bias}
        different = self._different()
        return {
            **{f"x/{name}": values for name, values in self._columns(self.queries, self.items).items()},
            **{f"check/{name}": values for name, values in self._columns(*different).items()},
            **{name: weight.detach().numpy() for name, weight in weights.items()},
        }

    def agreement(self, ask: Ask, name: str, parameters: int) -> float:
        """The largest difference in vectors and loss between us and a model of the peer.

        Raises: RuntimeError: where they differ, or do not have as many parameters.
        """
        if parameters != sum(parameter.numel() for parameter in self.model.parameters()):
            raise RuntimeError(f"{name} has {parameters} parameters, which ours has not")
        queries, items = self._different()
        with torch.no_grad():
            users, vectors = self.model(self.task.inputs.users(queries, CPU), self._item_inputs(items))
            # The peer's trainer corrects for nothing, as if all items were as likely.
            log_q = self.task.data.log_q[0][items] if name == "sbc" else np.zeros(len(items), np.float32)
            loss = logq_softmax(users, vectors, torch.from_numpy(items), torch.from_numpy(log_q), temperature=1.0)
        theirs = ask(f"check {name}")
        difference = max(
            float(np.abs(users.numpy() - np.array(theirs["users"])).max()),
            float(np.abs(vectors.numpy() - np.array(theirs["items"])).max()),
            abs(float(loss) - theirs["loss"]),
        )
        if not difference < 1e-4:
            raise RuntimeError(f"{name} does not compute what we do: a difference of {difference:g}")
        return difference

    def _features(self) -> dict[str, tuple[str, ...]]:
        towers = {"user": self.model.user_tower, "item": self.model.item_tower}
        return {side: tower.branch_features[0] for side, tower in towers.items()}

    def _different(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """As many rows of the epoch as a batch has, of different items."""
        items, place = np.unique(self.items, return_index=True)
        chosen = np.random.default_rng(0).permutation(len(items))[: self.training.batch_size]
        return self.queries[place[chosen]], items[chosen]

    def _columns(self, queries: NDArray[np.int64], items: NDArray[np.int32]) -> dict[str, NDArray]:
        inputs = {**self.task.inputs.users(queries, CPU), **self._item_inputs(items)}
        read = {name: inputs[name].numpy() for name in self.specs}
        columns = {
            name: values.astype(np.int64) if values.dtype.kind in "iu" else values for name, values in read.items()
        }
        return {**columns, "sample_weight": np.exp(self.task.data.log_q[0][items])}

    def _item_inputs(self, items: NDArray[np.int32]) -> dict[str, torch.Tensor]:
        return self.task.inputs.items(items.astype(np.int64), 0, CPU)


def measured(world: World, ask: Ask, models: list[str], repeats: int) -> dict[str, list[float]]:
    """Seconds of each epoch, in turns; the first turn warms up."""
    optimizers = Optimizers(world.model, world.training)
    seconds: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        started = time.perf_counter()
        fit_epoch(world.task, world.model, optimizers, world.training, epoch=0, worker=Worker())
        times = {"ours": time.perf_counter() - started}
        for name in (f"{model} {source}" for model in models for source in BATCHES_FROM):
            answer = ask(name)
            if answer["rows"] != world.rows or not math.isfinite(answer["loss"]):
                raise RuntimeError(f"{name} did not train the same epoch: {answer}")
            times[name] = answer["seconds"]
        if turn:
            for name, value in times.items():
                seconds.setdefault(name, []).append(value)
    return seconds


def on_ray(world: World, here_s: float) -> dict[str, float]:
    """What a Ray Train worker adds: to an epoch as a factor, and once for its start."""
    ensure_ray(1)
    epochs: list[float] = []
    training = world.training.model_copy(update={"workers": 1, "epochs": 5})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(
            # Without the tensors that ours keeps of it, which do not travel.
            replace(world.task),
            training,
            seed=0,
            run_dir=Path(folder) / "run",
            on_epoch=lambda metrics: epochs.append(metrics["train_s"]),
        )
        whole = time.perf_counter() - started
    return {"epoch_ratio": float(np.median(epochs[1:])) / here_s, "beside_epochs_s": whole - sum(epochs)}


def line(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    rates = f"ours {row['ours']['rows_per_s']:.0f} rows/s, peer {row['peer']['rows_per_s']:.0f}"
    return f"{row['model']}, batches from {row['batches_from']}: {rates}, ratio {ratio}"


if __name__ == "__main__":
    main()
