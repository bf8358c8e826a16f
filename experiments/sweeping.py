"""What ``experiments/run.py`` does once its arguments and the sweep are understood: plan, run, or submit jobs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import cluster, finite_answers, language_models, plan, process
from experiments.config import FiniteAnswersSweep, LanguageModelSweep, Sweep
from experiments.reporting import report
from llm.distributed import join
from slhf.errors import ConfigError

if TYPE_CHECKING:
    from experiments.run import Command


def work(command: Command, sweeps: list[Sweep]) -> str | None:
    """Run the sweeps or estimate them; returns what to print, None in all processes but the first."""
    process.prepare()
    if command.plan:
        return show_plan(sweeps, command.json, command.here)
    return run_as_jobs(sweeps, command) if command.executor else run_here(sweeps, command.out)


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
