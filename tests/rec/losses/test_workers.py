import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from rec.training import Worker

IN_PARTS = Path(__file__).with_name("in_parts.py")


def _alone() -> dict[str, np.ndarray]:
    spec = importlib.util.spec_from_file_location("in_parts", IN_PARTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.gradients(Worker())


def test_two_workers_have_the_loss_and_the_gradient_of_one(tmp_path):
    outputs = [tmp_path / f"{rank}.npz" for rank in range(2)]
    started = [
        subprocess.Popen([sys.executable, IN_PARTS, str(rank), "2", tmp_path / "meeting", output])
        for rank, output in enumerate(outputs)
    ]
    alone = _alone()
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    both = [np.load(output) for output in outputs]
    assert len(alone) == 22
    for name, expected in alone.items():
        scale = np.abs(expected).max()
        for shared in both:
            difference = np.abs(shared[name] - expected).max()
            assert difference <= 1e-5 * scale, f"{name} differs by {difference / scale:.1e}"
