"""A process that trains, and dies by SIGKILL where it is told to.

``multiprocessing``'s fork server imports this module once, so that each process that it forks costs milliseconds
instead of the seconds that importing torch takes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm import checkpoint, finite
from llm.config import ModelConfig, TrainConfig
from llm.judges.config import ServerJudgeConfig
from llm.judges.matrix import MatrixJudge
from llm.judges.server import ServerJudge
from llm.policy import LoRA, Policy
from slhf.algorithms import Algorithm
from slhf.runs import Run

loop = importlib.import_module("llm.train")  # `llm.train` itself is the function
LABELS = ["a", "b", "c"]
GAME = np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])


def die() -> None:
    """No handler, no exit function, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, count: int) -> None:
    """Die instead of making the ``count``-th call of ``owner.name``."""
    honest, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            die()
        return honest(*args, **kwargs)

    setattr(owner, name, dying)


def after(owner: Any, name: str, count: int, damage: Callable[..., None] = lambda *args: None) -> None:
    """Die at the end of the ``count``-th call of ``owner.name``, after doing ``damage(arguments)``."""
    honest, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    def dying(*args: Any, **kwargs: Any) -> Any:
        result = honest(*args, **kwargs)
        if next(calls) == count:
            damage(*args)
            die()
        return result

    setattr(owner, name, dying)


def halve(path: Path) -> None:
    """As if the process had died within the write."""
    os.truncate(path, path.stat().st_size // 2)


def tear_last_line(run: Run, *_: Any) -> None:
    path = run.path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - len(path.read_text().splitlines()[-1]) // 2)


def at_disk_event(root: Path, count: int) -> None:
    """Die before the ``count``-th time that anything below ``root`` is opened for writing, moved or removed."""
    events = iter(range(1, sys.maxsize))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        moves = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
        if (writes or moves) and str(args[0]).startswith(str(root)) and next(events) == count:
            die()

    sys.addaudithook(hook)


PLACES: dict[str, Callable[[int], None]] = {
    "in collect, before the judge answers": lambda n: before(MatrixJudge, "prefer", n),
    "between two forward passes": lambda n: before(Policy, "logprobs", n),
    "before the optimiser's step": lambda n: before(torch.optim.AdamW, "step", n),
    "after the optimiser's step": lambda n: after(torch.optim.AdamW, "step", n),
    "within a line of metrics": lambda n: after(Run, "log", n, tear_last_line),
    "between metrics and samples": lambda n: before(loop, "log_samples", n),
    "between samples and checkpoint": lambda n: before(checkpoint, "save", n),
    "between the adapter and the optimiser": lambda n: after(Policy, "save", n),
    "within the optimiser's file": lambda n: after(checkpoint, "save_file", n, lambda tensors, path: halve(path)),
    "before a checkpoint gets its name": lambda n: before(Path, "rename", n),
    "after a checkpoint got its name": lambda n: before(checkpoint, "prune", n),
    "within the removal of a checkpoint": lambda n: before(os, "rmdir", n),
    "between restoring and rewinding": lambda n: before(Run, "rewind", 1),
    "within rewinding": lambda n: before(Path, "replace", 1),
}
"""Where to die, at the n-th occasion."""


def build_model(directory: Path, **settings: Any) -> ModelConfig:
    """The finite-answers model, saved in ``directory``."""
    finite.build_model(directory, LABELS, seed=0)
    lora = LoRA(rank=2, modules=finite.MODULES)
    return ModelConfig(str(directory), "float32", 1.0, **{"max_new_tokens": 1, "lora": lora, **settings})


def child(
    root: Path, model: ModelConfig, config: TrainConfig, spec: Algorithm, place: str | int | None, n: float
) -> None:
    """Train in ``root``; die at the n-th occasion of a place, or before the n-th write if ``place`` is a number."""
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(place, str):
        PLACES[place](int(n))
    elif place is not None:
        at_disk_event(root, place)
    run = Run.open(root, "x", {})
    loop.train(spec, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, config, seed=1)


def judging(config: ServerJudgeConfig, prompts: list[str], a: list[str], b: list[str]) -> None:
    """Ask a server; it is for the caller to kill us."""
    ServerJudge(config).prefer(prompts, a, b)
