"""Where training stands, on disk: adapter, optimiser, the algorithm's state and step, in safetensors and JSON.

``checkpoint/adapter`` loads with ``peft.PeftModel.from_pretrained``. A checkpoint is either complete or not
there: it is written beside the old one and renamed (which a power failure, unlike a crash, may undo).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llm.algorithms import State
from llm.policy import Policy

NAME = "checkpoint"


def save(directory: Path, policy: Policy, optimizer: torch.optim.Optimizer, step: int, state: State) -> None:
    """Write the state after ``step`` steps, replacing the last one."""
    fresh, current, old = (directory / name for name in (f".{NAME}.new", NAME, f".{NAME}.old"))
    if old.exists() and not current.exists():  # a crash fell between the renames below
        old.rename(current)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    policy.save(fresh / "adapter")
    names = {id(p): name for name, p in policy.trainable()}
    save_file(
        {
            f"{names[id(p)]}/{key}": value.detach().contiguous()
            for p, state in optimizer.state.items()
            for key, value in state.items()
        },
        fresh / "optimizer.safetensors",
    )
    save_file(state, fresh / "algorithm.safetensors")
    (fresh / "step.json").write_text(json.dumps({"step": step}))
    if current.exists():
        current.rename(old)
    fresh.rename(current)
    shutil.rmtree(old, ignore_errors=True)


def find(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run directory; None before the first."""
    for name in (NAME, f".{NAME}.old"):  # the latter if a crash fell between the two renames of `save`
        if (directory / name / "step.json").exists():
            return directory / name
    return None


def restore(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, State]:
    """Put the optimiser where it was; returns the number of steps behind it and what the algorithm remembers.

    The policy must have been loaded from ``checkpoint/adapter``.
    """
    parameters = dict(policy.trainable())
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, field = key.rsplit("/", 1)
        parameter = parameters[name]
        # Adam keeps its step count on the CPU wherever the parameter is.
        optimizer.state[parameter][field] = value if field == "step" else value.to(parameter.device)
    state = load_file(checkpoint / "algorithm.safetensors", device=str(policy.device))
    return int(json.loads((checkpoint / "step.json").read_text())["step"]), state
