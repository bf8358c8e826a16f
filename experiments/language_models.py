"""Sweeps on a language model: train every algorithm, then let all of them and the base model meet."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import evaluation, process, side_by_side
from experiments.cluster import Task
from experiments.config import LanguageModelSweep, PlannedRun, runs_of
from experiments.reporting import report
from experiments.reporting.record import TITLES, write_plan
from llm import algorithms
from llm.config import identity as train_identity
from llm.config import load_policy
from llm.data import load_prompts
from llm.data.prompts import identity as prompt_identity
from llm.distributed import join
from llm.experience import Reward
from llm.generation import TransformersGenerator
from llm.judges import FeatureJudge, Judge, RewardJudge, drain
from llm.judges.config import JudgeConfig, identity
from llm.judges.loading import load_judge
from llm.lengths import Player, fitting
from llm.policy import default_device
from llm.precision import explain, settled
from llm.reward import LinearReward, OwnReward, fit_reward
from llm.train import train
from slhf.algorithms import RLOO, Algorithm
from slhf.errors import ConfigError
from slhf.runs import Run, derive_seed, settle, write_json


@dataclass
class Workplace:
    """What the runs of one invocation share; models are loaded when first needed."""

    root: Path
    _judge: tuple[Any, Judge] | None = None

    def judge(self, config: JudgeConfig, remember: bool = False) -> Judge:
        """The judge that ``config`` describes; the last one is kept, a model's worth of memory.

        Args:
            config: which, its ``dtype`` settled.
            remember: for an evaluation, where the same answers meet many others.
        """
        asked = (config, remember)
        if self._judge is None or self._judge[0] != asked:
            self._judge = None  # freed before the next is loaded
            self._judge = (asked, load_judge(config, default_device(), remember))
        return self._judge[1]


@dataclass(frozen=True)
class TrainedRun:
    """One finished training run and what it was."""

    spec: Algorithm
    sweep: LanguageModelSweep
    run: Run
    title: str


def run_sweep(sweeps: list[LanguageModelSweep], out: Path) -> Path | None:
    """Train, evaluate and report; returns the report. Finished parts are not repeated.

    Several processes train together. Then the first evaluates and reports; the others return None.
    """
    check(sweeps)
    workplace = Workplace(out / sweeps[0].name)
    if join(sweeps[0].train.timeout_minutes).first:
        announce(sweeps, workplace.root)
        print_precision(sweeps[0])
    train_side_by_side(sweeps, workplace)
    runs = {}
    for sweep in sweeps:
        for planned in runs_of(sweep):
            trained = train_run(planned, workplace)
            runs[trained.run.path] = trained
    if not join(sweeps[0].train.timeout_minutes).first:
        return None
    trained_runs = with_titles(list(runs.values()))
    result = evaluation.evaluate(trained_runs, sweeps[0], workplace)
    return report.write(workplace.root, trained_runs, result)


def train_side_by_side(sweeps: list[LanguageModelSweep], workplace: Workplace) -> None:
    """Train the unfinished runs at the same time where that is faster and memory holds them; else do nothing."""
    todo = {
        run.path: (planned, run)
        for sweep in sweeps
        for planned in runs_of(sweep)
        if not (run := open_run(planned.spec, planned.sweep, workplace.root)).finished
    }
    processes = side_by_side.at_once([planned.sweep.model.name for planned, _ in todo.values()])
    if processes > 1:
        side_by_side.run(
            [partial(train_task, planned, Workplace(workplace.root)) for planned, _ in todo.values()],
            processes,
            "training",
            "steps",
            sum(planned.sweep.train.steps for planned, _ in todo.values()),
            lambda: sum(len(run.metrics()) for _, run in todo.values()),
        )


def check(sweeps: list[LanguageModelSweep]) -> None:
    """Before hours of training, not after: what every run and the evaluation will need.

    Raises:
        ConfigError: an algorithm cannot be run so, the sweeps differ in what an evaluation must share, or too few
            prompts are held out.
    """
    for sweep in sweeps:
        for planned in runs_of(sweep):
            algorithms.check(planned.spec, planned.sweep.model.sharing, planned.sweep.train.steps)
            if isinstance(planned.spec, RLOO) and not sweep.judge.rewards:
                raise ConfigError(
                    f"RLOO needs a scalar reward, and a judge of kind {sweep.judge.kind} has none to give. Leave RLOO "
                    "out (--set 'algorithms=[stackelberg_gda, nash_md]'), or use a judge of kind reward_model."
                )
    evaluations = {(s.model, s.judge, s.prompts, s.evaluation) for s in sweeps}
    if len(evaluations) > 1:
        raise ConfigError("All runs of a sweep share model, judge, prompts and evaluation; sweep over the others.")
    evaluation.held_out_prompts(sweeps[0])
    if any(this.title == evaluation.BASE for this in titled_runs(sweeps, Path())):
        raise ConfigError(f"{evaluation.BASE!r} is what the untrained model is called in tables; give another title.")


def announce(sweeps: list[LanguageModelSweep], root: Path) -> None:
    """Write down what is going to be run, so that a report of an unfinished sweep can say what is missing."""
    titles = {this.title: this.run.path.name for this in titled_runs(sweeps, root)}
    write_plan(root, titles, asdict(sweeps[0].evaluation))


def print_precision(sweep: LanguageModelSweep) -> None:
    """Tell the user which number formats were chosen for them, and why."""
    for config, what, trained in ((sweep.model, "Model", sweep.model.lora is None), (sweep.judge, "Judge", False)):
        if line := explain(config, what, default_device(), trained):
            print(line, file=sys.stderr)


def titled_runs(sweeps: list[LanguageModelSweep], root: Path) -> list[TrainedRun]:
    """All runs of the sweeps, whether they are finished or not."""
    runs = {
        path: TrainedRun(planned.spec, planned.sweep, Run(path), title_of(planned))
        for sweep in sweeps
        for planned in runs_of(sweep)
        for path in [Run.directory(root, planned.spec.name, config_of(planned.spec, planned.sweep))]
    }
    return with_titles(list(runs.values()))


def title_of(planned: PlannedRun) -> str:
    """What the sweep calls a run, else its algorithm's title, else (from outside) the algorithm's name."""
    return planned.title or TITLES.get(planned.spec.name, planned.spec.name)


def tasks(sweeps: list[LanguageModelSweep], out: Path) -> list[Task]:
    """One task for each run that is not finished."""
    check(sweeps)
    workplace = Workplace(out / sweeps[0].name)
    announce(sweeps, workplace.root)
    return [
        (run.path.name, partial(train_task, planned, workplace))
        for sweep in sweeps
        for planned in runs_of(sweep)
        if not (run := open_run(planned.spec, planned.sweep, workplace.root)).finished
    ]


def train_task(planned: PlannedRun, workplace: Workplace) -> None:
    """``train_run`` in a process of its own, which the result would have to leave."""
    train_run(planned, workplace)


def open_run(spec: Algorithm, sweep: LanguageModelSweep, root: Path) -> Run:
    """The run directory of ``spec``."""
    return Run.open(root, spec.name, config_of(spec, sweep))


def config_of(spec: Algorithm, sweep: LanguageModelSweep) -> dict[str, Any]:
    """All that a run depends on."""
    config = {
        "algorithm": {"name": spec.name, **asdict(spec)},
        "seed": sweep.seed,
        "model": asdict(sweep.model),
        "judge": identity(sweep.judge),
        "prompts": prompt_identity(sweep.prompts),
        "train": train_identity(sweep.train),
    }
    if isinstance(spec, RLOO):
        config["reward"] = asdict(sweep.reward)
    return config


def train_run(planned: PlannedRun, workplace: Workplace) -> TrainedRun:
    """Train one algorithm unless its run directory says that it is finished."""
    spec, sweep = planned.spec, planned.sweep
    processes = join(sweep.train.timeout_minutes)
    run = processes.in_turn(lambda: open_run(spec, sweep, workplace.root))
    if not processes.agree(run.finished):
        with (
            run.lock() if processes.first else nullcontext(),
            run.error_kept(),
            processes.in_turn(partial(threads_of, run)),
        ):
            start = time.perf_counter()
            prompts = load_prompts(sweep.prompts, "train")
            device = default_device()
            config = processes.in_turn(lambda: settled(sweep.judge, "judge", run.manifest, device))
            judge, reward = workplace.judge(config), None
            if isinstance(spec, RLOO):
                reward = processes.in_turn(lambda: scalar_reward(sweep, judge, run, prompts))
            train(spec, judge, prompts, run, sweep.model, sweep.train, sweep.seed, reward)
            if processes.first:
                run.finish({"steps": sweep.train.steps, "seconds_this_session": round(time.perf_counter() - start, 1)})
    return TrainedRun(spec, sweep, run, title_of(planned))


def threads_of(run: Run) -> AbstractContextManager[None]:
    """As many threads of the processor as the run began with; with others a resumed run would round otherwise."""
    if torch.cuda.is_available():
        return nullcontext()
    return process.threads(int(settle(run.manifest, "threads", str(torch.get_num_threads()))))


def scalar_reward(sweep: LanguageModelSweep, judge: Judge, run: Run, prompts: list[str]) -> Reward:
    """The judge's own reward; else its Bradley-Terry reward on pairs of base-model answers, kept in ``reward.json``.

    A resumed run reads the latter back: fitting again could move it by the judge's rounding.
    """
    path, device = run.path / "reward.json", default_device()
    if isinstance(judge, RewardJudge):
        return OwnReward(judge)
    if not isinstance(judge, FeatureJudge):  # check() has seen to it that sweeps do not come here
        raise ConfigError("RLOO needs a reward, and this judge has neither one nor features to fit one to.")
    if path.exists():
        return LinearReward.from_json(judge, json.loads(path.read_text(encoding="utf-8")))
    model = settled(sweep.model, "model", run.manifest, device, trained=sweep.model.lora is None)
    policy = load_policy(model, None, 0, device)
    prompts = [prompts[i] for i in fitting(prompts, [Player.of(policy, sweep.model.max_new_tokens)])]
    asked = [prompts[i % len(prompts)] for i in range(sweep.reward.pairs)]
    session = TransformersGenerator(policy).open([policy.chat.prompt(x) for x in asked])
    session.repeat(2)
    seed = derive_seed(sweep.seed, "reward pairs")
    texts = [policy.chat.text(y.ids) for y in session.sample(sweep.model.max_new_tokens, seed)]
    drain(judge)
    reward = fit_reward(judge, asked, texts[::2], texts[1::2], sweep.reward.l2)
    write_json(path, {**reward.to_json(), "judge": drain(judge)})
    return reward


def with_titles(runs: list[TrainedRun]) -> list[TrainedRun]:
    """Give runs of the same algorithm distinct names, by the settings in which they differ."""
    named = []
    for this in runs:
        rivals = [settings_of(other) for other in runs if other.title == this.title]
        mine = settings_of(this)
        differing = [f"{key}={mine[key]}" for key in mine if any(theirs.get(key) != mine[key] for theirs in rivals)]
        title = f"{this.title} ({', '.join(differing)})" if differing else this.title
        named.append(TrainedRun(this.spec, this.sweep, this.run, title))
    return named


def settings_of(trained: TrainedRun) -> dict[str, Any]:
    """All in which two runs of one algorithm can differ within a sweep."""
    sweep = trained.sweep
    reward = {f"reward.{key}": value for key, value in asdict(sweep.reward).items()}
    fitted = reward if isinstance(trained.spec, RLOO) else {}
    own = {"seed": sweep.seed, "sharing": sweep.model.sharing}
    return {**asdict(trained.spec), **own, **train_identity(sweep.train), **fitted}
