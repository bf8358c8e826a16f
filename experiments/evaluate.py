"""``python experiments/evaluate.py NAME=WHAT ...``: let any set of checkpoints and models meet."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import places, process
from experiments.config import read_judge
from llm import embedded
from llm.data import Split
from llm.precision import Dtype
from slhf.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """Let any set of checkpoints and models answer held-out prompts and meet, two by two.

    Each is given as NAME=WHAT, where WHAT is a run directory (its last checkpoint), a checkpoint in one, the
    directory of a peft adapter or of a model, a hub id, or "embedded". Others are held against the first. Runs of
    StackelbergGDA take part as Leader and as Follower.

    Answers are kept: the same command again samples none twice, and prints a finished result at once.

    Examples:
      python experiments/evaluate.py base=embedded slhf=runs/quickstart/stackelberg_gda-0123456789
      python experiments/evaluate.py a=RUN/checkpoint-000005 b=RUN --count 20 --leader-follower --json
      python experiments/evaluate.py base=embedded tuned=my_adapter --judge reward_model,model=my_reward_model
      python experiments/evaluate.py base=embedded a=RUN1 b=RUN2 --parity --samples 4
    """

    contestants: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME=WHAT ...")]
    """Who takes part: two or more."""
    judge: str = "attributes"
    """A kind of judge and its settings, as a sweep file's judge has them: KIND[,KEY=VALUE...]."""
    prompts: str = "embedded"
    """Where prompts come from, as a sweep's prompts.source. Of a source that runs among the contestants trained on,
    those held out from them are held out here, with their other settings of prompts."""
    split: Split = "heldout"
    """Which of them."""
    count: int | None = None
    """How many prompts; by default all of the split."""
    rounds: int = 2
    """Rounds of refinement of the first and of StackelbergGDA runs, at least 2."""
    temperature: float | None = None
    """Sampling temperature; by default that of the runs among the contestants, else 0.7."""
    max_new_tokens: int | None = None
    """Longest answer, in tokens; by default that of the runs among the contestants, else 40."""
    dtype: Dtype | None = None
    """Number format of everyone's weights; by default each run's own setting, else "auto": bfloat16 where the device
    has units for it, else float32."""
    leader_follower: bool = False
    """Let everyone improve everyone's first answers."""
    parity: bool = False
    """Compare refinement with best of N and resampling at N = 1, ..., rounds generations."""
    samples: int | None = None
    """Draw so many answers per prompt from each, for cycles and for the choices of RLHF, NLHF and SLHF."""
    length_control: bool = False
    """Measure what preferences are at equal lengths."""
    resamples: int = 10_000
    """Bootstrap resamples of the prompts."""
    seed: int = 0
    """Of sampling and bootstrap."""
    out: Path = Path("runs/evaluations")
    """Where the evaluation's directory goes: answers, finished.json, report.md."""
    json: bool = False
    """Print the whole result as JSON instead of tables."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/evaluate.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "the same command goes on with the answers it has.")


def work(command: Command) -> None:
    """Let them meet, and print the result."""
    embedded.refuse_foreign_llm()
    named = [name_and_place(text) for text in command.contestants]
    for name, what in named:
        places.find(name, what)
    if len(named) < 2:
        raise ConfigError("An evaluation needs at least two contestants, each NAME=WHAT.")
    judge = read_judge(command.judge)
    from experiments import meeting  # here: it brings torch and transformers, and nothing above needs them

    print(meeting.work(command, named, judge))


def name_and_place(text: str) -> tuple[str, str]:
    """The two sides of NAME=WHAT."""
    name, equals, what = text.partition("=")
    if not (name and equals and what):
        raise ConfigError(f"{text}: write NAME=WHAT, such as base=embedded or mine=runs/quickstart/rloo-0123456789.")
    return name, what


if __name__ == "__main__":
    sys.exit(main())
