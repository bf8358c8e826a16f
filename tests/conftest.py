"""Every test process computes on one thread, and as many processes run side by side as cores and memory allow."""

import os

import psutil
import pytest

WORKER_MEMORY = 2.5 * 2**30
"""Bytes that a worker may come to need: twice the embedded model in float32, and torch."""

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before numpy and torch are imported
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # a model that is not here is missing, on every machine, at once
os.environ["MPLBACKEND"] = "agg"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """What ``-n auto`` stands for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // WORKER_MEMORY)))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """With ``--dist loadgroup``, tests that share a fixture of their module go to one worker, which makes it once."""
    for item in items:
        fixtures = (item.session._fixturemanager.getfixturedefs(name, item) or () for name in item.fixturenames)
        if any(definition.scope == "module" for found in fixtures for definition in found):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
