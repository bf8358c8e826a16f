"""Every test process computes on one thread, and as many processes run side by side as cores and memory allow."""

import os

import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

WORKER_MEMORY = 2.5 * 2**30
"""Bytes that a worker may come to need: twice the embedded model in float32, and torch."""

ALONE = ("tests/llm/test_two_worlds.py",)
"""Files of long tests that share nothing."""

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before numpy and torch are imported
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # a model that is not here is missing, on every machine, at once
os.environ["MPLBACKEND"] = "agg"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """What ``-n auto`` stands for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // WORKER_MEMORY)))


class ByFile(LoadScopeScheduling):
    """A file's tests go to one worker, which makes the fixtures they share once; those of ``ALONE`` each for itself."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in ALONE else file


def pytest_xdist_make_scheduler(config, log):
    """How tests are spread over workers, with ``--dist loadfile``."""
    return ByFile(config, log)
