"""Sweeps on a language model: train every algorithm, then let all of them and the base model meet."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import report
from experiments.cluster import Task
from experiments.config import LanguageModelSweep, PlannedRun, runs_of
from llm import algorithms, checkpoint
from llm.config import load_policy
from llm.data import load_prompts
from llm.distributed import join
from llm.evaluate import bootstrap, round_robin
from llm.generation import TransformersGenerator
from llm.judges import FeatureJudge, Judge, ask
from llm.judges.config import JudgeConfig, load_judge
from llm.policy import default_device
from llm.refine import refine
from llm.reward import LinearReward, fit_reward
from llm.train import train
from slhf.algorithms import RLOO, Algorithm, StackelbergGDA
from slhf.errors import ConfigError, RunError
from slhf.runs import Run, derive_seed, write_json

TITLES = {
    "stackelberg_gda": "SLHF",
    "rloo": "RLOO",
    "nash_md": "Nash-MD-PG",
    "spo": "SPO",
    "sppo": "SPPO",
    "egpo": "EGPO",
    "online_ipo": "Online IPO",
    "online_dpo": "Online DPO",
}
"""How an algorithm's policy is called in tables; one from outside by its spec's name."""


@dataclass
class Workplace:
    """What the runs of one invocation share; models are loaded when first needed."""

    root: Path

    judge_config: JudgeConfig

    @cached_property
    def judge(self) -> Judge:
        """The judge of training."""
        return load_judge(self.judge_config, default_device())

    @cached_property
    def examiner(self) -> Judge:
        """The same judge for evaluation, where the same answers meet many others."""
        return load_judge(self.judge_config, default_device(), remember=True)


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
    workplace = Workplace(out / sweeps[0].name, sweeps[0].judge)
    runs = {}
    for sweep in sweeps:
        for planned in runs_of(sweep):
            trained = train_run(planned, workplace)
            runs[trained.run.path] = trained
    if not join(sweeps[0].train.timeout_minutes).first:
        return None
    trained_runs = with_titles(list(runs.values()))
    evaluation = evaluate(trained_runs, sweeps[0], workplace)
    return report.write(workplace.root, trained_runs, evaluation)


def check(sweeps: list[LanguageModelSweep]) -> None:
    """Before hours of training, not after: what every run and the evaluation will need.

    Raises:
        ConfigError: an algorithm cannot be run so, the sweeps differ in what an evaluation must share, or too few
            prompts are held out.
    """
    for sweep in sweeps:
        for planned in runs_of(sweep):
            algorithms.check(planned.spec, planned.sweep.model.sharing, planned.sweep.train.steps)
    evaluations = {(s.model, s.judge, s.prompts, s.evaluation) for s in sweeps}
    if len(evaluations) > 1:
        raise ConfigError("All runs of a sweep share model, judge, prompts and evaluation; sweep over the others.")
    held_out_prompts(sweeps[0])


def tasks(sweeps: list[LanguageModelSweep], out: Path) -> list[Task]:
    """One task for each run that is not finished."""
    check(sweeps)
    workplace = Workplace(out / sweeps[0].name, sweeps[0].judge)
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
    config = {
        "algorithm": {"name": spec.name, **asdict(spec)},
        "seed": sweep.seed,
        "model": asdict(sweep.model),
        "judge": asdict(sweep.judge),
        "prompts": asdict(sweep.prompts),
        "train": asdict(sweep.train),
    }
    if isinstance(spec, RLOO):
        config["reward"] = asdict(sweep.reward)
    return Run.open(root, spec.name, config)


def train_run(planned: PlannedRun, workplace: Workplace) -> TrainedRun:
    """Train one algorithm unless its run directory says that it is finished."""
    spec, sweep = planned.spec, planned.sweep
    processes = join(sweep.train.timeout_minutes)
    run = processes.in_turn(lambda: open_run(spec, sweep, workplace.root))
    if not processes.agree(run.finished):
        with run.lock() if processes.first else nullcontext():
            start = time.perf_counter()
            prompts = load_prompts(sweep.prompts.source, "train")
            reward = None
            if isinstance(spec, RLOO):
                reward = processes.in_turn(lambda: base_reward(sweep, workplace, run, prompts))
            train(spec, workplace.judge, prompts, run, sweep.model, sweep.train, sweep.seed, reward)
            if processes.first:
                run.finish({"steps": sweep.train.steps, "seconds_this_session": round(time.perf_counter() - start, 1)})
    return TrainedRun(spec, sweep, run, planned.title or TITLES.get(spec.name, spec.name))


def base_reward(sweep: LanguageModelSweep, workplace: Workplace, run: Run, prompts: list[str]) -> LinearReward:
    """The Bradley-Terry reward of the judge on pairs of base-model answers, kept in ``reward.json``.

    A resumed run reads it back: fitting again could move it by the judge's rounding.
    """
    judge, path = workplace.judge, run.path / "reward.json"
    if not isinstance(judge, FeatureJudge):
        raise ConfigError("RLOO needs a reward, and this judge has no features to fit one to.")
    if path.exists():
        return LinearReward.from_json(judge, json.loads(path.read_text(encoding="utf-8")))
    policy = load_policy(sweep.model, None, 0, default_device())
    asked = [prompts[i % len(prompts)] for i in range(sweep.reward.pairs)]
    session = TransformersGenerator(policy).open([policy.chat.prompt(x) for x in asked])
    session.repeat(2)
    seed = derive_seed(sweep.seed, "reward pairs")
    texts = [policy.chat.text(y.ids) for y in session.sample(sweep.model.max_new_tokens, seed)]
    reward = fit_reward(judge, asked, texts[::2], texts[1::2], sweep.reward.l2)
    write_json(path, reward.to_json())
    return reward


def with_titles(runs: list[TrainedRun]) -> list[TrainedRun]:
    """Give runs of the same algorithm distinct names, by the settings in which they differ."""
    named = []
    for this in runs:
        rivals = [settings_of(other) for other in runs if other.title == this.title]
        mine = settings_of(this)
        differing = [f"{key}={mine[key]}" for key in mine if any(theirs[key] != mine[key] for theirs in rivals)]
        title = f"{this.title} ({', '.join(differing)})" if differing else this.title
        named.append(TrainedRun(this.spec, this.sweep, this.run, title))
    return named


def settings_of(trained: TrainedRun) -> dict[str, Any]:
    """All in which two runs of one algorithm can differ within a sweep."""
    sweep = trained.sweep
    reward = {f"reward.{key}": value for key, value in asdict(sweep.reward).items()}
    fitted = reward if isinstance(trained.spec, RLOO) else {}
    own = {"seed": sweep.seed, "sharing": sweep.model.sharing}
    return {**asdict(trained.spec), **own, **asdict(sweep.train), **fitted}


def evaluate(runs: list[TrainedRun], sweep: LanguageModelSweep, workplace: Workplace) -> dict[str, Any]:
    """Held-out answers of every policy, the round robin among them, and the refinement curves."""
    settings = sweep.evaluation
    config = {
        "runs": {trained.title: trained.run.path.name for trained in runs},
        "model": asdict(sweep.model),
        "judge": asdict(sweep.judge),
        "prompts": asdict(sweep.prompts),
        "evaluation": asdict(settings),
    }
    evaluation = Run.open(workplace.root, "evaluation", config)
    if evaluation.finished:
        return evaluation.result()
    prompts = held_out_prompts(sweep)
    jobs: list[tuple[str, LanguageModelSweep, Path | None, int]] = [("Base", sweep, None, settings.rounds)]
    for trained in runs:
        count = settings.rounds if isinstance(trained.spec, StackelbergGDA) else 1
        saved = checkpoint.latest(trained.run.path)
        if saved is None:
            raise RunError(f"{trained.run.path} is finished but holds no checkpoint; move it away to train again.")
        jobs.append((trained.title, trained.sweep, saved / "adapter", count))
    answers = {
        title: held_out_answers(title, adapter, count, own, evaluation, prompts)
        for title, own, adapter, count in tqdm(jobs, desc="evaluation", unit="policy")
    }
    base = answers["Base"][0]
    players: dict[str, list[str]] = {}
    for title, rounds in answers.items():
        if title == "Base":
            players |= {"Base": base, "Base as Follower": rounds[1]}
        elif len(rounds) > 1:
            players |= {f"{title} Leader": rounds[0], f"{title} Follower": rounds[1]}
        else:
            players[title] = rounds[0]

    rates = round_robin(workplace.examiner, prompts, players, settings.resamples, sweep.seed)
    result = {
        "prompts": prompts,
        "answers": players,
        "win_rates": [rate.to_json() for rate in rates],
        "verdicts": {
            name: ask(workplace.examiner, prompts, texts, base).tolist()
            for name, texts in players.items()
            if name != "Base"
        },
        "refinement": refinement_curves(answers, prompts, sweep, workplace),
        "attributes": mean_features(workplace.examiner, prompts, players),
    }
    evaluation.finish(result)
    return result


def mean_features(judge: Judge, prompts: list[str], players: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """The mean of each of the judge's features over a player's answers; empty for a judge without features."""
    if not isinstance(judge, FeatureJudge):
        return {}
    return {
        name: dict(zip(judge.feature_names, judge.features(prompts, texts).mean(0).tolist(), strict=True))
        for name, texts in players.items()
    }


def held_out_prompts(sweep: LanguageModelSweep) -> list[str]:
    """The first so many held-out prompts, as the sweep says."""
    prompts, count = load_prompts(sweep.prompts.source, "heldout"), sweep.evaluation.prompts
    if len(prompts) < count:
        raise ConfigError(f"evaluation.prompts = {count}, but only {len(prompts)} prompts are held out.")
    return prompts[:count]


def held_out_answers(
    title: str, adapter: Path | None, rounds: int, sweep: LanguageModelSweep, evaluation: Run, prompts: list[str]
) -> list[list[str]]:
    """Answers per round, read back if an interrupted evaluation had them already."""
    path = evaluation.path / "answers" / f"{title.replace('/', '_')}.json"
    if not path.exists():
        policy = load_policy(sweep.model, adapter, 0, default_device())
        # Another seed for each player: with shared draws a policy would be compared with its own random numbers.
        seed = derive_seed(sweep.seed, "evaluation", title)
        answers = refine(policy, TransformersGenerator(policy), prompts, rounds, sweep.model.max_new_tokens, seed)
        write_json(path, answers)
    return json.loads(path.read_text(encoding="utf-8"))


def refinement_curves(
    answers: dict[str, list[list[str]]], prompts: list[str], sweep: LanguageModelSweep, workplace: Workplace
) -> list[dict[str, Any]]:
    """How each round of those that refine fares against the base model's first answers."""
    opponent = answers["Base"][0]
    rows = []
    for title, rounds in answers.items():
        for number, texts in enumerate(rounds, 1):
            if len(rounds) == 1 or texts is opponent:
                continue
            p = ask(workplace.examiner, prompts, texts, opponent)
            low, high = bootstrap(p, sweep.evaluation.resamples, sweep.seed)
            row = {"policy": title, "round": number, "mean": float(p.mean()), "low": low, "high": high, "n": len(p)}
            rows.append(row)
    return rows
