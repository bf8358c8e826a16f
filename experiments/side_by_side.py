"""Several tasks at once on one processor, each in a process of its own with its share of the cores.

A decoding step on a CPU is many small matrix products, which two threads share badly: two runs with a thread each are
done well before two runs, one after the other, with two threads. Nothing else changes: a run is the same to the bit
whatever is computed beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from threading import Thread
from typing import Any

import psutil
import torch
from tqdm import tqdm

from experiments import process
from slhf import hardware
from slhf.errors import TrainingError

Task = Callable[[], Any]
"""What to do; importable, or a ``functools.partial`` of something that is."""

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"
POLL_SECONDS = 0.5
BYTES_EACH = 5e9
"""What training the embedded model needs: 3.7 GB at the quickstart's settings, and some room."""
KILLED = (
    "One of several processes was killed, as systems do that run out of memory. Close other programs, then start the "
    "same command again: it goes on from what is on the disk."
)


def computes_elsewhere(models: Sequence[str]) -> bool:
    """Whether a GPU, several processes of a launcher, or another model than the embedded one is at work."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return torch.cuda.is_available() or launched or set(models) != {"embedded"}


def at_once(models: Sequence[str]) -> int:
    """How many tasks run at a time: no more than there are cores and than memory holds.

    One, where a GPU computes, where a launcher started several processes already, or where a model is not the embedded
    one: of others nobody knows here what memory they need.

    Args:
        models: the model of each task.
    """
    if computes_elsewhere(models):
        return 1
    _, free = hardware.memory_bytes()  # knows the limit of a container, but not every system
    available = psutil.virtual_memory().available
    free = available if free is None else min(free, available)
    return max(1, min(len(models), torch.get_num_threads(), int(free // BYTES_EACH)))


def run(tasks: Sequence[Task], processes: int, title: str, unit: str, total: int, done: Callable[[], float]) -> None:
    """Do the tasks, ``processes`` at a time, under one bar with the time left.

    The first error ends the others and is raised; so does Ctrl-C.

    Args:
        tasks: what to do, the longest first.
        processes: how many at a time.
        title, unit, total: of the bar.
        done: how far all of them together are, of ``total``.

    Raises:
        TrainingError: a process was killed.
    """
    threads = max(1, torch.get_num_threads() // processes)
    spawn = multiprocessing.get_context("spawn")  # a forked torch may hang
    with (
        ProcessPoolExecutor(processes, spawn, partial(begin, threads)) as pool,
        tqdm(total=total, initial=done(), desc=title, unit=unit, bar_format=BAR) as bar,
    ):
        waiting = {pool.submit(task) for task in tasks}
        try:
            while waiting:
                finished, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                bar.update(done() - bar.n)
                for future in finished:
                    future.result()
        except BaseException as error:
            for worker in multiprocessing.active_children():
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise TrainingError(KILLED) from error
            raise


def begin(threads: int) -> None:
    """What a process does first; the bars inside it would tear ours apart."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the first process ends the others
    Thread(target=end_with_parent, daemon=True).start()
    show = tqdm.__init__  # not TQDM_DISABLE, which is read when tqdm is imported, and yields to what a bar asks for
    tqdm.__init__ = lambda bar, *args, **settings: show(bar, *args, **{**settings, "disable": True})
    torch.set_num_threads(threads)
    process.prepare()


def end_with_parent() -> None:
    """End this process when the one that started it is gone: killed, it ends nobody, and we would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
