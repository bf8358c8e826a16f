"""What ``experiments/evaluate.py`` does once its arguments are understood: contestants meet, tables say how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments import contestants, process
from experiments.config import EvaluationConfig
from experiments.evaluation import Examination, examine
from experiments.reporting import results
from llm.data import load_prompts
from llm.data.prompts import described
from llm.judges.config import JudgeConfig, identity
from llm.judges.loading import load_judge
from llm.lengths import Player, fitting
from llm.policy import default_device
from llm.precision import settled
from slhf.errors import ConfigError
from slhf.intervals import too_few, with_interval
from slhf.runs import Run, write_atomically

if TYPE_CHECKING:
    from experiments.evaluate import Command

SECTIONS = {
    "win_rates": ("Preference for the row over the column", "row", "column"),
    "length_control": ("The same at equal lengths", "row", "column"),
    "refinement": ("Rounds of refinement against {base}'s first answers", "policy", "round"),
    "leader_follower": ("Preference for the column's reply over the row's answer that it saw", "leader", "follower"),
    "parity": (
        "Against {base}'s first answers, by number of generations (best of n is optimistic)",
        "name",
        "generations",
    ),
    "selection": (
        "The choice among samples (column) against {base}'s first answers (optimistic)",
        "method",
        "candidates",
    ),
}
"""What is shown of a result: heading, rows and columns."""


def work(command: Command, named: Sequence[tuple[str, str]], judge: JudgeConfig) -> str:
    """Evaluate, and keep the tables as ``report.md``; returns what to print."""
    process.prepare()
    run, result = evaluate(command, named, judge)
    text = tables(result)
    write_atomically(run.path / "report.md", text)
    return json.dumps(result, indent=2) if command.json else f"\n{text}\nResult: {run.path / 'finished.json'}"


def evaluate(command: Command, named: Sequence[tuple[str, str]], judge: JudgeConfig) -> tuple[Run, dict[str, Any]]:
    """The result, read back if the evaluation is finished."""
    found = [contestants.resolve(*pair) for pair in named]
    taking_part = contestants.sampled_alike(found, command.temperature, command.max_new_tokens, command.dtype)
    prompts = load_prompts(contestants.prompts_as_trained(command.prompts, [what for _, what in named]), command.split)
    players = [Player.named(model) for model in dict.fromkeys(one.model for one in taking_part)]
    prompts = [prompts[i] for i in fitting(prompts, players)]
    count = len(prompts) if command.count is None else command.count
    if count > len(prompts):
        raise ConfigError(f"--count {count}, but {command.prompts} has {len(prompts)} prompts of {command.split}.")
    names = ("rounds", "resamples", "leader_follower", "parity", "samples", "length_control")
    settings = EvaluationConfig(prompts=count, **{name: getattr(command, name) for name in names})
    who = [
        {"title": one.title, "model": asdict(one.model), "weights": contestants.fingerprint(one)} for one in taking_part
    ]
    config = {"contestants": who, "judge": identity(judge), "prompts": described(prompts[:count])}
    run = Run.open(command.out, "evaluation", {**config, "evaluation": asdict(settings), "seed": command.seed})
    with run.lock():
        if not run.finished:
            present = [one.settled(run.manifest) for one in taking_part]
            exam = Examination(present, prompts[:count], settings, command.seed, run.path / "answers")
            its = settled(judge, "judge", run.manifest, default_device())
            run.finish(examine(exam, load_judge(its, default_device(), remember=True)))
    return run, run.result()


def tables(result: dict[str, Any]) -> str:
    """The result as Markdown; each cell is ``mean [low, high]``."""
    base, count = result["win_rates"][0]["row"], len(result["prompts"])
    parts = [too_few(count) or f"{count} prompts; 95 % bootstrap intervals over prompts."]
    for key, (heading, row, column) in SECTIONS.items():
        if key in result:
            frame = pd.DataFrame(result[key])
            if key == "parity":
                frame["name"] = frame["policy"] + ", " + frame["method"]
            remarks = results.remarks(result[key], pairs=(row, column) == ("row", "column"))
            parts += [f"## {heading.format(base=base)}", pivot(frame, row, column), *(r.text for r in remarks)]
    if "cycles" in result:
        facts = {key: value for key, value in result["cycles"].items() if value is not None}
        parts += ["## Cycles among samples", "\n".join(f"- {key}: {value}" for key, value in facts.items())]
        agreement = pd.DataFrame({row["concept"]: row["agrees_with"] for row in result["concepts"]})
        parts += ["## How far the concepts choose the same texts", agreement.to_markdown(floatfmt=".2f")]
    return "\n\n".join(parts) + "\n"


def pivot(frame: pd.DataFrame, row: str, column: str) -> str:
    """One cell for each pair, in order of first appearance."""
    cells = [with_interval(r) for r in frame.replace({np.nan: None}).to_dict("records")]
    table = frame.assign(cell=cells).pivot(index=row, columns=column, values="cell")
    rows, columns = frame[row].unique(), frame[column].unique()
    if set(rows) == set(columns):
        columns = rows
    return table.loc[rows, columns].fillna("–").rename_axis(index=None, columns=None).to_markdown()
