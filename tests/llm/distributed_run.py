"""One training run as a script, so that a launcher can start several processes of it: CASES OUT [killed|stuck]."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from llm import finite
from llm.config import ModelConfig, TrainConfig
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA
from llm.train import train
from slhf.algorithms import EGPO, NashMD, StackelbergGDA
from slhf.runs import Run, write_json

LABELS = ["a", "b", "c"]
GAME = np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])
RATE = 1e-3
ADAPTERS = LoRA(rank=2, modules=finite.MODULES)
TWICE = {"leader_samples": 2, "follower_samples": 2}
FRUGAL = {"tokens_per_micro_batch": 60, "gradient_checkpointing": True}
CASES = {
    # name: model, algorithm, training; a batch of 5 is not the same for both processes
    "one": ({"lora": ADAPTERS}, StackelbergGDA(RATE, **TWICE), {"batch_size": 5}),
    "two": ({"lora": ADAPTERS, "sharing": "two"}, StackelbergGDA(RATE, leader_interval=2), FRUGAL),
    "lower layer frozen": ({"lora": LoRA(2, layers=1, modules=finite.MODULES)}, NashMD(RATE), {}),
    "full": ({"lora": None}, StackelbergGDA(RATE, **TWICE), {"batch_size": 5}),
    "full in parts": ({"lora": None}, StackelbergGDA(RATE), {"batch_size": 5, **FRUGAL}),
    "full with memory": ({"lora": None}, EGPO(RATE), {"batch_size": 4, "checkpoint_every": 1}),
}


class Dying(MatrixJudge):
    """In process 1, is killed ("killed") or never answers ("stuck") from the third question on."""

    def __init__(self, how):
        super().__init__(GAME, LABELS)
        self.left, self.how = 2, how

    def prefer(self, prompts, a, b):
        self.left -= 1
        if self.left < 0 and os.environ["RANK"] == "1":
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)
        return super().prefer(prompts, a, b)


def run_case(case, out, judge=None, **settings):
    """Train on the model in ``out/model``; returns the run directory and the policy."""
    torch.set_num_threads(1)
    model, spec, training = CASES[case]
    config = ModelConfig(str(out / "model"), "float32", 1.0, max_new_tokens=1, **model)
    run = Run(out / f"{case} on {os.environ.get('WORLD_SIZE', '1')}{getattr(judge, 'how', '')}")
    run.path.mkdir(exist_ok=True)
    if not (run.path / "manifest.json").exists():  # where a run notes the format of its weights
        write_json(run.path / "manifest.json", {})
    training = TrainConfig(**{"steps": 4, "batch_size": 8, "checkpoint_every": 2, **training, **settings})
    return run, train(spec, judge or MatrixJudge(GAME, LABELS), [finite.PROMPT], run, config, training, seed=3)


if __name__ == "__main__":
    cases, out, how = sys.argv[1].split(","), Path(sys.argv[2]), sys.argv[3:]
    if how:
        run_case(cases[0], out, Dying(how[0]), timeout_minutes=0.1)
    else:
        for case in cases:
            run_case(case, out)
            run_case(case, out, steps=6)  # goes on from the checkpoint
