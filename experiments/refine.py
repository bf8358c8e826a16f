"""``python experiments/refine.py PROMPTS``: let a Follower improve a model's answers, round after round."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import places, process
from experiments.config import read_judge
from llm import embedded
from llm.precision import Dtype
from slhf.errors import InvalidParameter


@dataclass(frozen=True)
class Command:
    """Refine answers: the Leader answers each prompt, then the Follower improves the answer, again and again.

    Writes one JSON object per prompt, {"row": 1, "prompt": ..., "answers": [round 1, round 2, ...]}, as soon as it
    has them. Start the same command again after an interruption: it goes on where it stopped, and the result is the
    one of an uninterrupted run. Settings are kept beside the output, in NAME.settings.json.

    Leader and Follower are each a run directory (its last checkpoint), a checkpoint in one, the directory of a peft
    adapter or of a model, a hub id, or "embedded".

    Examples:
      python experiments/refine.py prompts.txt
      echo "Why is the sky blue?" | python experiments/refine.py - --rounds 4
      python experiments/refine.py prompts.txt --judge attributes
      python experiments/refine.py prompts.jsonl --leader runs/quickstart/stackelberg_gda-HASH --out refined.jsonl
      python experiments/refine.py prompts.jsonl --leader MODEL --follower runs/quickstart/stackelberg_gda-HASH
      python experiments/refine.py answered.jsonl --follower runs/quickstart/stackelberg_gda-HASH
    """

    prompts: tyro.conf.Positional[str]
    """A .txt file, one prompt a line; any other file that llm.data reads (.jsonl, .json, .csv, .tsv, .parquet), with a
    field "prompt" and perhaps "answer": it is then round 1, and no Leader is asked; or - for standard input, lines of
    text or of JSON."""
    leader: str | None = None
    """Who answers first; by default "embedded"."""
    follower: str | None = None
    """Who improves the answers; by default the Leader plays both roles."""
    out: Path = Path("refined.jsonl")
    """Where the answers go."""
    rounds: int = 3
    """Answers per prompt, the first one included."""
    temperature: float | None = None
    """Sampling temperature; by default each run's own, else 0.7."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; by default each run's own, else 128."""
    dtype: Dtype | None = None
    """Number format of the weights; by default each run's own setting, else "auto": bfloat16 where the device has units
    for it, else float32."""
    batch_size: int = 8
    """Prompts at a time."""
    seed: int = 0
    """Of all draws; each prompt draws from a stream of its own."""
    judge: str | None = None
    """In the end, print how often this judge prefers each round to round 1: KIND[,KEY=VALUE...], such as attributes or
    python,target=my_judge.py:prefer."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/refine.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "the same command goes on where it stopped.")


def work(command: Command) -> None:
    """Refine, after a look at the environment."""
    embedded.refuse_foreign_llm()
    check_options(command)
    judge = None if command.judge is None else read_judge(command.judge)
    for title, what in (("Leader", command.leader), ("Follower", command.follower)):
        places.find(title, what or "embedded")
    from experiments import refining  # here: it brings torch and transformers, and nothing above needs them

    refining.run(command, judge)


def check_options(command: Command) -> None:
    """Refuse numbers out of range (not when parsing: the parser would make it an error of its own).

    Raises:
        InvalidParameter: naming the option.
    """
    for name, least in (("rounds", 1 if command.judge is None else 2), ("batch_size", 1), ("max_new_tokens", 1)):
        value = getattr(command, name)
        if value is not None and value < least:
            raise InvalidParameter(f"--{name.replace('_', '-')} {value}: must be at least {least}.")
    if command.temperature is not None and not command.temperature > 0:
        raise InvalidParameter(f"--temperature {command.temperature}: must be positive.")


if __name__ == "__main__":
    sys.exit(main())
