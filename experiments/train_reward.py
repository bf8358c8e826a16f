"""``python experiments/train_reward.py [--data ...]``: train reward heads and say how good they are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import process
from llm import embedded
from llm.precision import Dtype
from slhf.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """Train one LoRA reward head per attribute on preferences; measure accuracy and calibration on held-out ones.

    All heads share one base model and are trained together. The result is a judge that any sweep can use; the
    report ends with the lines to put into it. With no argument everything is offline: the embedded model answers
    the embedded prompts, the embedded judge's six attributes label every pair of answers to a prompt, and a head
    learns each of them.

    A finished run is never repeated and an interrupted one goes on after its last epoch: start the same command again.

    Examples:
      python experiments/train_reward.py
      python experiments/train_reward.py --data my_transcripts.jsonl
      python experiments/train_reward.py --data helpsteer2 --model Qwen/Qwen2.5-1.5B-Instruct

    A local file has a JSON object per line. In the format of HH, "chosen" and "rejected" are whole transcripts
    ("\\n\\nHuman: ...\\n\\nAssistant: ...") that differ in the last answer.
    """

    data: Annotated[str, tyro.conf.arg(metavar="embedded|helpsteer2|FILE|...")] = "embedded"
    """What to learn from: "embedded", a local file, or anything else that llm.data reads (a preset, a hub id)."""
    model: Annotated[str, tyro.conf.arg(metavar="embedded|DIRECTORY|HUB-ID")] = "embedded"
    """The base model. For "embedded" the settings below default to small ones for a CPU (rank 16 on the last 2 layers,
    learning rate 1e-3, 4 epochs), for any other to the paper's (rank 32 on all layers, 1e-4, 5 epochs)."""
    out: Path = Path("runs/rewards")
    """Where the run directory goes."""
    seed: int = 0
    """Of the heads' start, the order of the data and, with --data embedded, the answers."""
    epochs: int | None = None
    """Passes over the training comparisons."""
    learning_rate: float | None = None
    """Highest learning rate; it falls along a line to zero."""
    batch_size: int | None = None
    """Conversations per step."""
    centring: float | None = None
    """Coefficient of (r_chosen + r_rejected)^2, which keeps rewards around zero."""
    rank: int | None = None
    """Rank of each head's adapter; its alpha is twice that."""
    layers: int | None = None
    """Adapt only the last so many layers; 0 for all."""
    dtype: Dtype = "auto"
    """Of the base model's weights: "auto" for bfloat16 where the device has units for it, else float32."""
    prompts: int | None = None
    """With --data embedded: how many prompts of each split to use; by default all."""
    answers: int | None = None
    """With --data embedded: answers sampled for each prompt, by default 4; all pairs of them are compared."""
    heldout_share: float | None = None
    """With data that have no split of their own: the share of the conversations that is held out, by default 0.1."""
    limit: int | None = None
    """With other data than embedded: how many comparisons of each split to use; by default all."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/train_reward.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "the same command goes on after the last epoch.")


def work(command: Command) -> None:
    """Train, and print what came of it."""
    embedded.refuse_foreign_llm()
    check_options(command)
    from experiments import reward_heads  # here: it brings torch and transformers, and nothing above needs them

    print(reward_heads.run(command))


def check_options(command: Command) -> None:
    """Refuse options out of range and such as would change nothing.

    Raises:
        ConfigError: naming them.
    """
    offline, elsewhere = ("prompts", "answers"), ("heldout_share", "limit")
    idle = [key for key in (elsewhere if command.data == "embedded" else offline) if getattr(command, key) is not None]
    if idle:
        only = "not" if command.data == "embedded" else "only"
        raise ConfigError(f"--{', --'.join(key.replace('_', '-') for key in idle)}: {only} with --data embedded.")
    if (command.answers is not None and command.answers < 2) or (command.prompts is not None and command.prompts < 1):
        raise ConfigError("--answers is at least 2 and --prompts at least 1: it takes two answers to compare.")
    if command.heldout_share is not None and not 0 < command.heldout_share < 1:
        raise ConfigError(f"--heldout-share {command.heldout_share}: must lie between 0 and 1.")


if __name__ == "__main__":
    sys.exit(main())
