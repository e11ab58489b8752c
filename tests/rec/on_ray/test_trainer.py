import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import ray.train
from ray.exceptions import RayActorError
from ray.train import Checkpoint, Result, WorkerGroupError

from rec.errors import DataError, TrainingError
from rec.on_ray.trainer import fit_trainer


@dataclass
class Scripted:
    """A trainer that takes over Ctrl-C, as Ray's do, and then ends in its own way."""

    end: Callable[[], Result]
    sent: signal.Signals | None = None

    def fit(self) -> Result:
        signal.signal(signal.SIGINT, lambda *_: None)
        if self.sent is not None:
            os.kill(os.getpid(), self.sent)
        return self.end()


def _raise(error: BaseException):
    raise error


ENDS = {
    "dead_controller": lambda: _raise(RayActorError()),
    "exit": lambda: sys.exit(0),
    "dead_workers": lambda: _raise(WorkerGroupError("died", {0: RuntimeError("gone")})),
    "done": lambda: Result(metrics={}, checkpoint=Checkpoint(os.getcwd()), error=None, path="."),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_after_ctrl_c_whatever_ray_makes_of_it_is_an_interrupt(end):
    with pytest.raises(KeyboardInterrupt):
        fit_trainer(Scripted(end, signal.SIGINT))


def test_sigterm_is_an_interrupt():
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_trainer(Scripted(ENDS["exit"], signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_controller_that_dies_of_itself_is_an_error():
    with pytest.raises(TrainingError, match="Ray Train could not go on"):
        fit_trainer(Scripted(ENDS["dead_controller"]))
    with pytest.raises(TrainingError, match="Ray Train could not go on"):
        fit_trainer(Scripted(lambda: _raise(ray.train.ControllerError(RuntimeError("no room")))))


def test_workers_that_die_are_an_error_and_one_of_ours_is_passed_on():
    with pytest.raises(TrainingError, match=r"worker 0 failed.*gone"):
        fit_trainer(Scripted(ENDS["dead_workers"]))
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = DataError("row 3 is broken")
    with pytest.raises(DataError, match="row 3"):
        fit_trainer(Scripted(lambda: _raise(WorkerGroupError("died", {1: wrapped}))))


def test_what_ctrl_c_does_is_left_as_it_was():
    handler, wakeup = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    fit_trainer(Scripted(ENDS["done"]))
    assert signal.getsignal(signal.SIGINT) is handler and signal.set_wakeup_fd(-1) == wakeup


def test_an_end_without_a_checkpoint_is_an_error():
    with pytest.raises(TrainingError, match="without a checkpoint"):
        fit_trainer(Scripted(lambda: Result(metrics={}, checkpoint=None, error=None, path=".")))
