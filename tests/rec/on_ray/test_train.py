import json
import os
import signal
import threading
import time

import psutil
import pytest
import torch

from rec.bundle import git_sha
from rec.config import QueriesConfig, RetrieverConfig, TowerConfig, TrainingConfig, UserTowerConfig
from rec.errors import ConfigError, TrainingError
from rec.on_ray.train import print_epoch, train, uses_gpu, write_run_record
from rec.retriever.task import RetrieverTask
from rec.run_files import EPOCHS_FILE, RUN_FILE

CONFIG = RetrieverConfig(
    user_tower=UserTowerConfig(history_windows=(20,), embedding_dim=16, hidden=(32,)),
    item_tower=TowerConfig(embedding_dim=16, hidden=(32,)),
    output_dim=16,
    mixed_negatives=16,
    queries=QueriesConfig(snapshots=4, epoch_share=4, min_batches=1),
)
HERE = TrainingConfig(workers=0, epochs=3, batch_size=128, learning_rate=0.01)


def _task(checkerboard, **queries) -> RetrieverTask:
    config = CONFIG.model_copy(update={"queries": CONFIG.queries.model_copy(update=queries)})
    return RetrieverTask(checkerboard.retrieval_data(config.queries), config, 128, seed=0)


def _losses(run_dir) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / EPOCHS_FILE).read_text().splitlines()]


def test_without_workers_it_trains_here_and_leaves_a_run_directory(checkerboard, tmp_path):
    seen = []
    fitted = train(_task(checkerboard), HERE, seed=0, run_dir=tmp_path / "run", on_epoch=seen.append)
    assert [epoch["epoch"] for epoch in seen] == [1, 2, 3]
    assert _losses(tmp_path / "run") == [epoch["loss"] for epoch in fitted.progress.history]
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["000003"]


def test_gpus_are_asked_for_where_the_config_says_so_and_else_taken_where_there_are_enough():
    for workers, n_gpus, expected in ((2, 2, True), (2, 1, False), (0, 1, True), (0, 0, False)):
        assert uses_gpu(HERE.model_copy(update={"workers": workers}), n_gpus) is expected
    asked = HERE.model_copy(update={"workers": 2, "use_gpu": True})
    assert uses_gpu(asked, 0, may_grow=True) and uses_gpu(asked, 2)
    assert not uses_gpu(asked.model_copy(update={"use_gpu": False}), 2)
    with pytest.raises(ConfigError, match=r"2 GPUs are asked for.*there are 1") as error:
        uses_gpu(asked, 1)
    assert error.value.field == "training.use_gpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_gpus_that_nobody_can_bring_are_not_waited_for(checkerboard, tmp_path, ray_session, monkeypatch, workers):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = HERE.model_copy(update={"workers": workers, "use_gpu": True})
    with pytest.raises(ConfigError, match="GPUs are asked for"):
        train(_task(checkerboard), config, seed=0, run_dir=tmp_path / "run")


def test_a_run_that_was_cut_off_goes_on_where_it_was(checkerboard, tmp_path):
    whole = train(_task(checkerboard), HERE, seed=0, run_dir=tmp_path / "whole", on_epoch=lambda metrics: None)

    def interrupt(metrics):
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_task(checkerboard), HERE, seed=0, run_dir=tmp_path / "cut", on_epoch=interrupt)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(_task(checkerboard), HERE, seed=0, run_dir=tmp_path / "cut")
    seen = []
    resumed = train(_task(checkerboard), HERE, seed=0, run_dir=tmp_path / "cut", resume=True, on_epoch=seen.append)
    assert [epoch["epoch"] for epoch in seen] == [3]
    for name, weights in whole.weights.items():
        assert torch.equal(weights, resumed.weights[name])


def test_the_record_of_a_run_says_what_was_run_on_what(tmp_path):
    write_run_record(tmp_path, config=HERE, seed=7, data={"name": "checkerboard", "sha256": "ab"})
    record = json.loads((tmp_path / RUN_FILE).read_text())
    assert record["seed"] == 7 and record["config"]["epochs"] == 3 and record["data"]["sha256"] == "ab"
    assert {"tandem-rec", "python", "torch", "ray", "lightgbm"} <= record["versions"].keys()
    assert record["git_sha"] == git_sha()


def test_progress_goes_to_stderr(capsys):
    print_epoch({"epoch": 2, "loss": 1.23456, "ndcg@10": 0.25})
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "epoch 2  loss 1.235  ndcg@10 0.25\n"


def _training_workers() -> list[psutil.Process]:
    """Ray Train's workers among the processes this test session started."""
    own = psutil.Process().children(recursive=True)
    return [process for process in own if process.cmdline() and "RayTrainWorker" in process.cmdline()[0]]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_two_workers_learn_what_one_does(ray_session, checkerboard, tmp_path):
    config = HERE.model_copy(update={"workers": 2, "epochs": 3, "max_failures": 1, "patience": 9})
    # Long epochs, so that the kill falls into the middle of one.
    task = _task(checkerboard, epoch_share=30)
    killed: list[int] = []
    first_workers: set[int] = set()
    last_workers: set[int] = set()
    first_epoch = threading.Event()

    def kill() -> None:
        first_epoch.wait()
        first_workers.update(worker.pid for worker in _training_workers())
        victim = _training_workers()[0]
        time.sleep(0.3)
        killed.append(victim.pid)
        os.kill(victim.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    seen = []

    def on_epoch(metrics):
        seen.append(metrics)
        first_epoch.set()
        last_workers.clear()
        last_workers.update(worker.pid for worker in _training_workers())

    fitted = train(task, config, seed=0, run_dir=tmp_path / "killed", on_epoch=on_epoch)
    thread.join()
    assert killed and not psutil.pid_exists(killed[0])
    assert len(first_workers) == 2 and last_workers - first_workers, "nobody took the dead worker's place"
    assert fitted.progress.epoch == 3 and fitted.progress.finished
    assert seen[-1]["epoch"] == 3
    assert list((tmp_path / "killed").glob("events.out.tfevents.*"))
    alone = train(
        task,
        config.model_copy(update={"workers": 0}),
        seed=0,
        run_dir=tmp_path / "alone",
        on_epoch=lambda metrics: None,
    )
    for together, single in zip(fitted.progress.history, alone.progress.history, strict=True):
        assert together["loss"] == pytest.approx(single["loss"], rel=0.02)
    assert fitted.progress.best["ndcg@10"] == pytest.approx(alone.progress.best["ndcg@10"], abs=0.05)


@pytest.mark.slow
def test_a_loss_that_diverges_on_workers_is_an_error_that_says_what_to_do(ray_session, checkerboard, tmp_path):
    config = HERE.model_copy(update={"workers": 2, "max_failures": 0, "learning_rate": 1e30, "schedule": "constant"})
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        train(_task(checkerboard), config, seed=0, run_dir=tmp_path / "broken", on_epoch=lambda metrics: None)
