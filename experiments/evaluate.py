"""``python experiments/evaluate.py NAME=WHAT ...``: let any set of checkpoints and models meet."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import contestants, process
from experiments.config import EvaluationConfig, read_judge
from experiments.evaluation import Examination, examine
from experiments.reporting import results
from llm import embedded
from llm.data import Split, load_prompts
from llm.judges.config import identity, load_judge
from llm.policy import default_device
from llm.precision import Dtype, settled
from slhf.errors import ConfigError
from slhf.intervals import too_few, with_interval
from slhf.runs import Run, write_atomically

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


def main(arguments: list[str] | None = None) -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, "evaluate.py", work, arguments, "the same command goes on with the answers it has.")


def work(command: Command) -> None:
    """Let them meet, and print the result."""
    process.prepare()
    embedded.refuse_foreign_llm()
    run, result = evaluate(command)
    text = tables(result)
    write_atomically(run.path / "report.md", text)
    print(json.dumps(result, indent=2) if command.json else f"\n{text}\nResult: {run.path / 'finished.json'}")


def evaluate(command: Command) -> tuple[Run, dict[str, Any]]:
    """The result, read back if the evaluation is finished."""
    named = [name_and_place(text) for text in command.contestants]
    found = [contestants.resolve(*pair) for pair in named]
    if len(found) < 2:
        raise ConfigError("An evaluation needs at least two contestants, each NAME=WHAT.")
    taking_part = contestants.sampled_alike(found, command.temperature, command.max_new_tokens, command.dtype)
    judge = read_judge(command.judge)
    prompts = load_prompts(contestants.prompts_as_trained(command.prompts, [what for _, what in named]), command.split)
    count = len(prompts) if command.count is None else command.count
    if count > len(prompts):
        raise ConfigError(f"--count {count}, but {command.prompts} has {len(prompts)} prompts of {command.split}.")
    names = ("rounds", "resamples", "leader_follower", "parity", "samples", "length_control")
    settings = EvaluationConfig(prompts=count, **{name: getattr(command, name) for name in names})
    described = [
        {"title": one.title, "model": asdict(one.model), "weights": contestants.fingerprint(one)} for one in taking_part
    ]
    config = {"contestants": described, "judge": identity(judge), "prompts": prompts[:count]}
    run = Run.open(command.out, "evaluation", {**config, "evaluation": asdict(settings), "seed": command.seed})
    with run.lock():
        if not run.finished:
            present = [one.settled(run.manifest) for one in taking_part]
            exam = Examination(present, prompts[:count], settings, command.seed, run.path / "answers")
            its = settled(judge, "judge", run.manifest, default_device())
            run.finish(examine(exam, load_judge(its, default_device(), remember=True)))
    return run, run.result()


def name_and_place(text: str) -> tuple[str, str]:
    """The two sides of NAME=WHAT."""
    name, equals, what = text.partition("=")
    if not (name and equals and what):
        raise ConfigError(f"{text}: write NAME=WHAT, such as base=embedded or mine=runs/quickstart/rloo-0123456789.")
    return name, what


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


if __name__ == "__main__":
    sys.exit(main())
