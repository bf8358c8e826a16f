"""``python experiments/run.py [SWEEP.yaml] [--set key=value ...]``: run a sweep and read its report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(HERE.parent))

from experiments import process  # noqa: E402
from experiments.config import load_sweep  # noqa: E402
from llm import embedded  # noqa: E402
from slhf.errors import ConfigError  # noqa: E402


@dataclass(frozen=True)
class Command:
    """Run a sweep: train, evaluate, write the report.

    With no argument: the quickstart. It trains StackelbergGDA, RLOO and Nash-MD-PG on a small language model
    that comes with the installation, lets them and the base model meet on held-out prompts, and prints the
    table of win rates and where the report is (about a quarter of an hour on two CPU cores, after set-up).

    A finished run is never repeated and an interrupted one resumes: start the same command again.

    Examples:
      python experiments/run.py
      python experiments/run.py --set steps=40 --set seed=0,1,2
      python experiments/run.py --set timescale=1,5,10
      python experiments/run.py finite_answers --set judge.matrix=mine.csv
      python experiments/run.py qwen2.5-7b --plan
      python experiments/run.py --set seed=0,1,2 --executor slurm --slurm partition=gpu,gpus=1,timeout_min=600
      torchrun --nproc_per_node 4 -m experiments.run qwen2.5-7b
    """

    sweep: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help_behavior_hint="(default: the quickstart's)")] = (
        HERE / "sweeps" / "quickstart.yaml"
    )
    """The sweep file, or the name of one of the project's own in experiments/sweeps."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE[,VALUE...]")] = ()
    """Override a key of the sweep, as often as needed; several values make several runs. A key is a path
    (train.steps), an algorithm's field (rloo.tau), or the last part alone where it is clear (steps)."""
    out: Path = Path("runs")
    """Where run directories and the report go."""
    plan: bool = False
    """Run nothing; print an estimate of memory and time for each run, on one 80 GB GPU."""
    here: bool = False
    """With --plan: on this machine's processor instead, whose speed is measured in a few seconds."""
    json: bool = False
    """With --plan: print JSON instead of a table."""
    executor: Literal["local", "slurm"] | None = None
    """Make each run a job, on this machine or on a SLURM cluster, then one more for evaluation and report; wait for
    all of them (Ctrl-C cancels them). Needs the package submitit."""
    slurm: Annotated[str, tyro.conf.arg(metavar="KEY=VALUE[,KEY=VALUE...]")] = ""
    """What each job asks SLURM for: partition=gpu,gpus=1,cpus=8,mem_gb=64,timeout_min=600 and so on."""
    at_once: int | None = None
    """With --executor: how many jobs may be waiting or running at a time; by default 1 on this machine and all of
    them on a cluster."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/run.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "the same command goes on from the last checkpoint.")


def work(command: Command) -> None:
    """Run the sweep, or print its plan."""
    embedded.refuse_foreign_llm()
    sweeps = load_sweep(command.sweep, command.set)
    check_options(command)
    from experiments import sweeping  # here: it brings torch and transformers, and nothing above needs them

    result = sweeping.work(command, sweeps)
    if result is not None:
        print(result)


def check_options(command: Command) -> None:
    """Refuse options that would change nothing.

    Raises:
        ConfigError: naming them.
    """
    if command.json and not command.plan:
        raise ConfigError("--json goes with --plan.")
    if command.here and not command.plan:
        raise ConfigError("--here goes with --plan.")
    if command.slurm and command.executor != "slurm":
        raise ConfigError("--slurm goes with --executor slurm.")
    if command.at_once is not None and (command.executor is None or command.at_once < 1):
        raise ConfigError("--at-once is a number of jobs, at least 1, and goes with --executor.")


if __name__ == "__main__":
    sys.exit(main())
