"""Tasks for processes of their own, with little to import."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from experiments import side_by_side
from slhf.errors import JudgeError
from slhf.runs import write_json


def trained(seed, out):
    """Trains a network, and notes the step, the weights and on how many threads it was to compute."""
    torch.manual_seed(seed)
    first, second = torch.randn(40, 50, requires_grad=True), torch.randn(50, 1, requires_grad=True)
    for step in range(20):
        loss = (torch.tanh(torch.randn(30, 40) @ first) @ second).square().mean()
        gradients = torch.autograd.grad(loss, (first, second))
        with torch.no_grad():
            for weight, gradient in zip((first, second), gradients, strict=True):
                weight -= 0.01 * gradient
        (out / f"{seed}-{step}").touch()
    torch.save((first, second), out / f"{seed}.pt")
    (out / f"{seed}.threads").write_text(str(torch.get_num_threads()))


def fail(beside):
    """Fails once the task beside it is at work."""
    await_file(beside)
    raise JudgeError("The judge is gone.")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def endless(started):
    Path(started).touch()
    await_file(f"{started}, which is never written")


def await_file(path, seconds=300):
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def beside_a_bar(out):
    """Has a bar of its own, as training does."""
    for _ in tqdm(range(3), desc="inner", disable=False):
        Path(out).touch()


def lonely(out):
    """Starts a task that outlives it, unless that ends with it."""

    def die():
        if Path(out).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    side_by_side.run([partial(noted, out)], 1, "", "", 1, die)


def noted(out):
    """Writes down which process it is, and goes on for ever."""
    write_json(Path(out), os.getpid())
    await_file(f"{out}, which is never written")


if __name__ == "__main__":
    lonely(sys.argv[1])
