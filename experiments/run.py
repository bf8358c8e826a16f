"""``python experiments/run.py [SWEEP.yaml] [--set key=value ...]``: run a sweep and read its report."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(HERE.parent))

from experiments import cluster, finite_answers, language_models, plan, process, report  # noqa: E402
from experiments.config import FiniteAnswersSweep, LanguageModelSweep, Sweep, load_sweep  # noqa: E402
from llm import embedded  # noqa: E402
from llm.distributed import join  # noqa: E402
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
      python experiments/run.py experiments/sweeps/finite_answers.yaml --set judge.matrix=mine.csv
      python experiments/run.py experiments/sweeps/qwen2.5-7b.yaml --plan
      python experiments/run.py --set seed=0,1,2 --executor slurm --slurm partition=gpu,gpus=1,timeout_min=600
      torchrun --nproc_per_node 4 experiments/run.py experiments/sweeps/qwen2.5-7b.yaml
    """

    sweep: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help_behavior_hint="(default: the quickstart's)")] = (
        HERE / "sweeps" / "quickstart.yaml"
    )
    """The sweep file; those of the project are in experiments/sweeps."""
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


def main(arguments: list[str] | None = None) -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, "run.py", work, arguments, "the same command goes on from the last checkpoint.")


def work(command: Command) -> None:
    """Run the sweep, or print its plan."""
    process.prepare()
    embedded.refuse_foreign_llm()
    sweeps = load_sweep(command.sweep, command.set)
    check_options(command)
    if command.plan:
        print(show_plan(sweeps, command.json, command.here))
        return
    result = run_as_jobs(sweeps, command) if command.executor else run_here(sweeps, command.out)
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


def run_here(sweeps: list[Sweep], out: Path) -> str | None:
    """Train, evaluate and report, one run after another; returns what to print, None in all processes but the first."""
    if isinstance(sweeps[0], FiniteAnswersSweep):
        games = [sweep for sweep in sweeps if isinstance(sweep, FiniteAnswersSweep)]
        results = finite_answers.run_sweep(games, out)
        return json.dumps(results, indent=2) if join(games[0].train.timeout_minutes).first else None
    path = language_models.run_sweep(language_model_sweeps(sweeps), out)
    return None if path is None else report.headline(path)


def run_as_jobs(sweeps: list[Sweep], command: Command) -> str:
    """The same with a job for each unfinished run, and one for the rest after them."""
    kind, out = command.executor, command.out.resolve()
    assert kind is not None
    at_once = command.at_once or (1 if kind == "local" else None)
    if isinstance(sweeps[0], FiniteAnswersSweep):
        games = [sweep for sweep in sweeps if isinstance(sweep, FiniteAnswersSweep)]
        tasks = finite_answers.tasks(games, out)
    else:
        tasks = language_models.tasks(language_model_sweeps(sweeps), out)
    executor = cluster.make_executor(kind, out / "jobs", cluster.parse_parameters(command.slurm))
    cluster.run_jobs(tasks, executor, cluster.POLL_SECONDS[kind], at_once)
    last: list[cluster.Task] = [("evaluation and report", partial(run_here, sweeps, out))]
    return cluster.run_jobs(last, executor, cluster.POLL_SECONDS[kind])[0]


def show_plan(sweeps: list[Sweep], as_json: bool, here: bool = False) -> str:
    """The estimates of all runs, as a table or JSON."""
    estimates = plan.plan(language_model_sweeps(sweeps), plan.this_machine() if here else plan.GPU)
    if as_json:
        return json.dumps([estimate.to_json() for estimate in estimates], indent=2)
    return plan.table(estimates)


def language_model_sweeps(sweeps: list[Sweep]) -> list[LanguageModelSweep]:
    """The sweeps, which must all be of that kind."""
    found = [sweep for sweep in sweeps if isinstance(sweep, LanguageModelSweep)]
    if len(found) < len(sweeps):
        raise ConfigError("--plan is for sweeps of kind language_model; finite answers fit on any machine.")
    return found


if __name__ == "__main__":
    sys.exit(main())
