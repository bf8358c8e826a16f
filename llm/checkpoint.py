"""Where training stands, on disk: adapter, optimiser, the algorithm's state and step, in safetensors and JSON.

``checkpoint-000020`` is the state after 20 steps; its ``adapter`` loads with ``peft.PeftModel.from_pretrained``.
A checkpoint is complete or not there: it is written and synced under another name, then renamed. The latest is
the one with the greatest number, so nothing has to point at it. Nothing random is in it (every draw is addressed
by run seed, step and role) and neither is the schedule (a function of the step).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llm.algorithms import State
from llm.distributed import ALONE, Processes, gathered, share_of, whole
from llm.policy import Policy
from slhf.errors import RunError
from slhf.runs import remove_directory, write_directory

PREFIX = "checkpoint-"


def save(
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    step: int,
    state: State,
    processes: Processes = ALONE,
) -> None:
    """Write where training stands after ``step`` steps into the run directory; ``state`` is the algorithm's.

    Every process must call it; the first one writes.
    """
    names = {id(p): name for name, p in policy.trainable()}
    moments = {}
    for p, entries in optimizer.state.items():
        for key, value in entries.items():
            complete = whole(value).detach().contiguous()  # all processes take part, one keeps it
            if processes.first:
                moments[f"{names[id(p)]}/{key}"] = complete.cpu()

    remembered = {name: whole(value) for name, value in state.items()}

    def fill(path: Path) -> None:
        policy.save(path / "adapter")
        save_file(moments, path / "optimizer.safetensors")
        save_file(remembered, path / "algorithm.safetensors")
        (path / "step.json").write_text(json.dumps({"step": step}))

    with gathered(policy):
        if processes.first:
            write_directory(directory / f"{PREFIX}{step:06d}", fill)
        processes.wait()


def prune(directory: Path, newest: int, every: int | None) -> None:
    """Remove all but the ``newest`` last checkpoints and those after a multiple of ``every`` steps."""
    for path in find_all(directory)[:-newest]:
        if every is None or steps_behind(path) % every:
            remove_directory(path)
    for leftover in directory.glob(f".{PREFIX}*"):  # of a process that was killed while it wrote or removed one
        shutil.rmtree(leftover)


def find_all(directory: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first."""
    found = [path for path in directory.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=steps_behind)


def latest(directory: Path) -> Path | None:
    """The newest checkpoint of a run directory; None before the first."""
    return next(reversed(find_all(directory)), None)


def steps_behind(checkpoint: Path) -> int:
    """After how many steps it was made."""
    return int(checkpoint.name.removeprefix(PREFIX))


def restore(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, State]:
    """Put the optimiser where it was; returns the number of steps behind it and what the algorithm remembers.

    The policy must have been loaded from ``checkpoint/adapter``.

    Raises:
        RunError: the checkpoint is of another policy or was renamed.
    """
    step = int(json.loads((checkpoint / "step.json").read_text(encoding="utf-8"))["step"])
    if step != steps_behind(checkpoint):
        raise RunError(f"{checkpoint} holds the state after {step} steps; give it its own name back.")
    parameters = dict(policy.trainable())
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, field = key.rsplit("/", 1)
        if name not in parameters or (field != "step" and value.shape != parameters[name].shape):
            raise RunError(f"{checkpoint} holds optimiser state for {name}, which the policy does not train.")
        parameter = parameters[name]
        # Adam keeps its step count on the CPU wherever the parameter is.
        optimizer.state[parameter][field] = value if field == "step" else share_of(value, parameter)
    remembered = load_file(checkpoint / "algorithm.safetensors", device=str(policy.device))
    # what an algorithm remembers of a parameter goes by its name
    return step, {name: share_of(x, parameters[name]) if name in parameters else x for name, x in remembered.items()}
