"""torch-rechub's two-tower models, trained by its MatchTrainer in a Python of their own; see train_two_tower.py.

Reads examples, our first weights and a batch to compare on from the .npz file it is given, and does what the lines of
its input say: `check MODEL`, the vectors' and the loss' numbers on that batch; `MODEL loader` or `MODEL ready`, one
epoch from the library's DataLoader, or from batches that lie ready. Second argument: threads.
"""

import importlib.metadata
import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM, YoutubeSBC
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator
from torch_rechub.utils.match import gather_inbatch_logits, inbatch_negative_sampling

WEIGHT = "sample_weight"


def main() -> None:
    # The library prints to the standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[2]))
    given = np.load(sys.argv[1])
    settings = json.loads(str(given["settings"]))
    columns = tensors(given, "x/")
    labels = torch.zeros(len(columns["item_id"]), dtype=torch.int64)
    trainers = {name: trainer(name, given, settings) for name in ("dssm", "sbc")}
    size = settings["batch_size"]
    loader = MatchDataGenerator(columns, labels).generate_dataloader(columns, columns, size, num_workers=0)[0]
    ready = [
        ({name: column[start : start + size] for name, column in columns.items()}, labels[start : start + size])
        for start in range(0, len(labels), size)
    ]
    said = {
        "version": importlib.metadata.version("torch-rechub"),
        "torch": torch.__version__,
        "parameters": {
            name: sum(parameter.numel() for parameter in one.model.parameters()) for name, one in trainers.items()
        },
    }
    print(json.dumps(said), file=answers, flush=True)
    for line in map(str.split, sys.stdin):
        if line[0] == "check":
            answer = checked(line[1], trainers[line[1]].model, tensors(given, "check/"))
        else:
            started = time.perf_counter()
            loss = trainers[line[0]].train_one_epoch(loader if line[1] == "loader" else ready)
            answer = {"seconds": time.perf_counter() - started, "rows": len(labels), "loss": loss}
        print(json.dumps(answer), file=answers, flush=True)


def trainer(name: str, given: Any, settings: dict[str, Any]) -> MatchTrainer:
    """The library's trainer of one of its models, whose towers are ours.

    Of the library's layers the batch normalisation, the dropout and the last activation are taken out, which our towers
    do not have: so it does no more than ours.
    """
    users, items = given["w/user_id"], given["w/item_id"]
    user_features = [
        SparseFeature("user_id", *users.shape, padding_idx=0),
        SequenceFeature("history", *items.shape, shared_with="item_id", padding_idx=0),
        *(DenseFeature(column) for column in settings["user_numbers"]),
    ]
    item_features = [
        SparseFeature("item_id", *items.shape, padding_idx=0),
        *(DenseFeature(column) for column in settings["item_numbers"]),
    ]
    layers = {"dims": settings["dims"]}
    size = settings["batch_size"]
    if name == "dssm":
        model: nn.Module = DSSM(user_features, item_features, layers, dict(layers))
    else:
        weight = [DenseFeature(WEIGHT)]
        model = YoutubeSBC(user_features, item_features, weight, layers, dict(layers), size, n_neg=size - 1)
    for side in ("user", "item"):
        mlp = getattr(model, f"{side}_mlp")
        linear = [layer for layer in mlp.mlp if isinstance(layer, nn.Linear)]
        mlp.mlp = nn.Sequential(linear[0], nn.ReLU(), linear[1])
        for place, layer in enumerate(linear):
            layer.weight.data = torch.from_numpy(given[f"w/{side}.{place}.weight"])
            layer.bias.data = torch.from_numpy(given[f"w/{side}.{place}.bias"])
        model.embedding.embed_dict[f"{side}_id"].weight.data = torch.from_numpy(given[f"w/{side}_id"])
    return MatchTrainer(
        model,
        mode=2,
        in_batch_neg=name == "dssm",
        optimizer_params={"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]},
        n_epoch=1,
    )


def tensors(given: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(given[name]) for name in given.files if name.startswith(prefix)}


def checked(name: str, model: nn.Module, rows: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Vectors of users and items, and the loss, of a batch of different items."""
    with torch.no_grad():
        users, items = model.user_tower(rows), model.item_tower(rows)
        if name == "dssm":
            scores = users @ items.T
            logits = gather_inbatch_logits(scores, inbatch_negative_sampling(scores))
        else:
            users, items = nn.functional.normalize(users), nn.functional.normalize(items)
            logits = model(rows)
        loss = nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
    return {"users": users.tolist(), "items": items.tolist(), "loss": float(loss)}


if __name__ == "__main__":
    main()
