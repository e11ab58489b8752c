"""Starting Ray, or joining the cluster there is."""

import logging
import os

import ray


def ensure_ray(workers: int) -> None:
    """Joins the cluster of RAY_ADDRESS or of the job this runs in; else starts a Ray for this process alone.

    A Ray of its own listens without a dashboard and ends with the process. It has a CPU for every training worker,
    even where the machine has fewer.
    """
    # Ray Train notices the end of a worker at its next look; its default of two seconds delays every short run.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(address="local", num_cpus=max(os.cpu_count() or 1, workers), include_dashboard=False, **quiet)
