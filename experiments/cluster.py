"""The runs of a sweep as jobs, on this machine or on a SLURM cluster, through ``submitit``.

``submitit`` pickles each job's function and settings to carry them into the job's process (its own files in
``OUT/jobs``; checkpoints stay safetensors). A job resumes from its run's last checkpoint like any other start of it,
so a job that was cancelled or failed is simply submitted again by the same command.

The SLURM side is configuration only: it was never tried on a cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from experiments import process
from slhf.errors import ConfigError, MissingResource, RunError
from slhf.extras import install_command

Kind = Literal["local", "slurm"]
Task = tuple[str, Callable[[], Any]]
"""A name and what to do; the function must be importable or a ``functools.partial`` of one that is."""

SHARED = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Parameters that submitit knows for every kind of executor; all others are SLURM's own."""
SHORT = {"gpus": "gpus_per_node", "cpus": "cpus_per_task"}
POLL_SECONDS = {"local": 0.2, "slurm": 15.0}
A_MONTH = 31 * 24 * 60
"""Minutes; submitit would end a local job after two."""


def parse_parameters(text: str) -> dict[str, Any]:
    """``partition=gpu,gpus=1,time=600`` as submitit names it: ``{"slurm_partition": "gpu", "gpus_per_node": 1, ...}``.

    Raises:
        ConfigError: an item is not ``key=value``.
    """
    found = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--slurm {text}: write key=value[,key=value...], for example partition=gpu,gpus=1.")
        name = SHORT.get(key, key)
        found[name if name in SHARED else f"slurm_{name}"] = yaml.safe_load(value)
    return found


def make_executor(kind: Kind, folder: Path, parameters: Mapping[str, Any]) -> Any:
    """A ``submitit.AutoExecutor`` whose files and logs go to ``folder``.

    Raises:
        MissingResource: submitit, or SLURM's sbatch, is not installed.
        ConfigError: a parameter that submitit does not know, or of the wrong type.
    """
    try:
        import submitit  # not at the top: an optional package
    except ImportError as error:
        raise MissingResource(f"--executor needs the package submitit: {install_command('cluster')}") from error
    if kind == "local":
        parameters = {"timeout_min": A_MONTH, "gpus_per_node": torch.cuda.device_count(), **parameters}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=kind)
        executor.update_parameters(**parameters)
    except RuntimeError as error:
        raise MissingResource(f"--executor {kind}: {error}.") from error
    except (NameError, AssertionError, ValueError) as error:
        raise ConfigError(f"--slurm: {' '.join(str(error).split())}") from error
    return executor


def run_jobs(tasks: Sequence[Task], executor: Any, poll: float, at_once: int | None = None) -> list[Any]:
    """Run the tasks as jobs, wait for all of them, and return their results in order.

    One failing job does not stop the others. When this is interrupted (Ctrl-C) or fails, all jobs are cancelled.

    Args:
        tasks: what to run.
        executor: see :func:`make_executor`.
        poll: seconds between two looks at the jobs.
        at_once: how many jobs may be submitted and unfinished; None for all.

    Raises:
        RunError: after all jobs have ended, naming each that failed and its log.
    """
    waiting = list(enumerate(tasks))
    jobs: dict[int, Any] = {}
    running: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and (at_once is None or len(running) < at_once):
                number, (name, function) = waiting.pop(0)
                with importable():
                    jobs[number] = running[number] = executor.submit(in_job, function)
                print(f"{name}: job {jobs[number].job_id}, log {jobs[number].paths.stderr}", flush=True)
            time.sleep(poll)
            running = {number: job for number, job in running.items() if not job.done()}
    except BaseException:
        for job in running.values():
            job.cancel(check=False)
        raise
    reasons = {number: failure(job) for number, job in jobs.items()}
    failed = [f"{tasks[n][0]} ({why}; log: {jobs[n].paths.stderr})" for n, why in sorted(reasons.items()) if why]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(tasks)} jobs failed: {'; '.join(failed)}. The same command runs these again, "
            "from their last checkpoints."
        )
    return [jobs[number].result() for number in range(len(tasks))]


def failure(job: Any) -> str | None:
    """Why a finished job failed, in one line; None if it did not."""
    from submitit.core.utils import FailedJobError

    error = job.exception()
    if error is None:
        return None
    if isinstance(error, FailedJobError):  # its second section is the job's own traceback
        return str(error).split("-" * 22)[1].strip().splitlines()[-1]
    return "it ended without a result, as when it is killed or out of memory"


def in_job(function: Callable[[], Any]) -> Any:
    """What a job's process runs."""
    process.prepare()
    return function()


@contextmanager
def importable() -> Iterator[None]:
    """Within this context, started processes find this project's packages wherever they start.

    SLURM passes the environment on unless told otherwise (``--export``).
    """
    root, before = str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if before is None else f"{root}{os.pathsep}{before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
