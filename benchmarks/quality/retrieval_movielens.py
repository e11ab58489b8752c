"""Retrieval and ranking on MovieLens-1M, several seeds, beside baselines.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/retrieval_movielens.py [--seeds 5]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: ratings >= 3 are likes; global temporal split, T = the value at index int(.8 n) of the sorted times, test
        t >= T; users and items unknown before T dropped; what a user liked before T is left out of the lists; one list
        a user, as of T, over the full catalogue. Nothing at or after T is used for training, features or stopping.
Expect: about five minutes a seed on two cores; retriever alone above EASE, both stages above .30 NDCG@10.
Writes: benchmarks/results/retrieval_movielens.json
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, paired_row, quality_result, summary_row, write_result

from rec.bundle_evaluation import report_on
from rec.config import BaselinesConfig, DataConfig, EvaluationConfig, TrainConfig
from rec.data.source import read_dataset
from rec.metrics import format_difference, format_estimate
from rec.pipeline import train
from rec.recommender import Recommender

PUBLISHED = {"popularity": 0.244, "ease": 0.2525, "ials": 0.265}
GOALS = {"retriever": 0.2525, "two_stage": 0.30}
METRIC = "ndcg@10"
PRINTED = (METRIC, "hit_rate@10", "recall@10")
WEEK = "popularity_7_days"


def main() -> None:
    """Trains and judges one bundle a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = DataConfig(name="movielens-1m", path=str(data_folder() / "ml-1m"))
    dataset = read_dataset(data)
    rows, by_seed, seconds = [], [], []
    for seed in range(options.seeds):
        config = TrainConfig.model_validate(
            {"data": data.model_dump(), "seed": seed, "training": {"workers": options.workers}}
        )
        # Baselines do not depend on the seed: they are fitted once, and 7 days of popularity stand beside the chosen
        # window, which is a noisy choice.
        baselines = BaselinesConfig() if seed == 0 else BaselinesConfig(names=())
        with tempfile.TemporaryDirectory() as home:
            seconds.append(train(dataset, config, home)["seconds"])
            recommender = Recommender.load(home)
            report, ready, period = report_on(recommender, dataset, EvaluationConfig(baselines=baselines))
            if seed == 0:
                week = BaselinesConfig(names=("recent_popularity",), recent_days=(7,))
                weekly, _, _ = report_on(recommender, dataset, EvaluationConfig(baselines=week))
                first = {**report.values, WEEK: weekly.values["recent_popularity"]}
                models = {**report.models, WEEK: weekly.models["recent_popularity"]}
            else:
                models = report.models
        by_seed.append({**first, **report.values})
        rows += [
            {
                "model": model,
                "seed": seed,
                "log": None,
                "metrics": {name: estimate.value for name, estimate in metrics.items()},
            }
            for model, metrics in models.items()
        ]
        for model, metrics in models.items():
            print(f"seed {seed}  {model:<20}" + "".join(f"  {k} {v.value:.4f}" for k, v in metrics.items()), flush=True)

    summary = [
        summary_row(
            model,
            name,
            rows,
            published=PUBLISHED.get(model) if name == METRIC else None,
            goal=GOALS.get(model) if name == METRIC else None,
        )
        for model in by_seed[0]
        for name in rows[0]["metrics"]
    ]
    pairs = [(a, b) for a in ("two_stage", "retriever") for b in by_seed[0] if b not in ("two_stage", a)]
    paired = []
    for a, b in pairs:
        paired.append(paired_row(a, b, METRIC, *([seed[name] for seed in by_seed] for name in (a, b))))
        print(f"{a} - {b}: {format_difference(paired[-1])}")
    protocol = {
        "cut_ms": ready.split.cut_ms,
        "n_train": len(ready.split.train),
        "n_test": len(ready.split.test),
        "n_users": len(period),
        "seconds_per_training": seconds,
        "paired": paired,
    }
    write_result(quality_result("retrieval_movielens", protocol=protocol, rows=rows, summary=summary))
    for row in summary:
        if row["metric"] in PRINTED:
            told = format_estimate({"value": row["mean"], "std_error": row["std_error"]})
            goal = "" if row["goal"] is None else f"  goal {row['goal']}"
            print(f"{row['model']:<20} {row['metric']:<12} {told}{goal}")


if __name__ == "__main__":
    main()
