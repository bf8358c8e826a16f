"""``python experiments/export.py RUN --to alpaca_eval|lm_eval``: take a trained policy to other evaluations."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import places, process
from llm import embedded
from llm.data import Split
from llm.precision import Dtype
from slhf.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """Take a trained policy to AlpacaEval or to the LM Evaluation Harness.

    alpaca_eval: sample an answer to each instruction, the Leader's or the Follower's reply to it, and write
    AlpacaEval's model outputs (JSON). lm_eval: write a model directory, base and adapter merged, with the tokenizer
    and its chat template. Both print the command that evaluates them; neither runs it.

    Examples:
      python experiments/export.py runs/quickstart/stackelberg_gda-0123456789 --to lm_eval --out merged
      python experiments/export.py RUN --to alpaca_eval --role follower --prompts alpaca_eval.json --out outputs.json
    """

    run: tyro.conf.Positional[str]
    """A run directory, or whatever else experiments/evaluate.py takes."""
    to: Literal["alpaca_eval", "lm_eval"]
    """What for."""
    out: Path
    """The file (alpaca_eval) or directory (lm_eval) to write."""
    role: Literal["leader", "follower"] = "leader"
    """Whose answers. The harness asks a model once, so lm_eval is for the Leader."""
    prompts: str | None = None
    """alpaca_eval: AlpacaEval's own alpaca_eval.json, or prompts as a sweep's prompts.source gives them; if the run
    trained on that source, with its own settings of prompts. By default "embedded"."""
    split: Split | None = None
    """alpaca_eval: which of them; by default those held out. An alpaca_eval.json has no splits."""
    name: str | None = None
    """alpaca_eval: the generator's name; by default that of the run's directory (whichever of its checkpoints it is)
    and the role."""
    temperature: float | None = None
    """alpaca_eval: sampling temperature; by default the run's."""
    max_new_tokens: int | None = None
    """alpaca_eval: longest answer in tokens; by default the run's, which can be short for AlpacaEval."""
    seed: int | None = None
    """alpaca_eval: of sampling; by default 0."""
    dtype: Dtype | None = None
    """Number format of the weights. alpaca_eval: while sampling; by default the run's own setting, else "auto":
    bfloat16 where the device has units for it, else float32. lm_eval: as they are written; float32, the default,
    computes what base and adapter do, bfloat16 takes half the space and loses updates smaller than a weight's last
    digit."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/export.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "nothing was written.")


def work(command: Command) -> None:
    """Write the export, and print the command that uses it."""
    check_options(command)
    embedded.refuse_foreign_llm()
    places.find(title_of(command.run), command.run)
    from experiments import exporting  # here: it brings torch and transformers, and nothing above needs them

    print(exporting.work(command, title_of(command.run)))


def check_options(command: Command) -> None:
    """Refuse options that would change nothing.

    Raises:
        ConfigError: naming them.
    """
    sampling = ("prompts", "split", "name", "temperature", "max_new_tokens", "seed")
    idle = [key for key in sampling if getattr(command, key) is not None]
    if idle and command.to == "lm_eval":
        raise ConfigError(f"--{', --'.join(key.replace('_', '-') for key in idle)}: only with --to alpaca_eval.")


def title_of(what: str) -> str:
    """The name of the run's directory, also for a checkpoint in it; of anything else its own."""
    path = Path(what).expanduser()
    return (places.run_of(path) or path).resolve().name


if __name__ == "__main__":
    sys.exit(main())
