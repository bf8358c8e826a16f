"""``slhf COMMAND``: every command of the project under one name. Help and refusals import nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from slhf.errors import MissingResource
from slhf.extras import require
from slhf.names import advice
from tabular.commands import COMMANDS as EXACT


@dataclass(frozen=True)
class Command:
    """A command of the group for language models or for the installation; its module's ``main`` answers."""

    module: str
    line: str
    """What it does."""
    given: tuple[str, ...] = ()
    """Arguments that it stands for."""
    needs: tuple[str, ...] = ()
    """Packages of the extra ``llm`` without which it cannot start."""


TORCH = ("torch", "transformers", "peft", "tyro", "pydantic", "yaml")

MODELS = {
    "train": Command("run", "run a sweep: train, evaluate, report (by default the quickstart)", needs=TORCH),
    "plan": Command("run", "estimate memory and time of a sweep, and run nothing", ("--plan",), TORCH),
    "report": Command("report", "write the report of a sweep again, finished or not", needs=("tyro", "jinja2")),
    "evaluate": Command("evaluate", "let any set of checkpoints and models meet", needs=TORCH),
    "refine": Command("refine", "let a Follower improve a model's answers, round after round", needs=TORCH),
    "export": Command("export", "take a trained policy to AlpacaEval or the LM Evaluation Harness", needs=TORCH),
    "train-reward": Command("train_reward", "train reward heads on preferences, as a judge", needs=TORCH),
}
SETUP = {"doctor": Command("doctor", "what this machine and this installation can do, and what stands in the way")}

EXAMPLES = """\
examples:
  slhf solve P.csv --concept slhf --tau 0.1
  slhf describe P.csv --plot structure.png
  slhf train --set steps=40 --set seed=0,1
  slhf plan qwen2.5-7b
  slhf COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to the command; returns the exit status, 2 if there is no such command."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if given else 2
    name, *rest = given
    if name in EXACT:
        from tabular.__main__ import main as exact  # here: it brings numpy

        return exact(given, "slhf")
    command = {**MODELS, **SETUP}.get(name)
    if command is None:
        known = [*EXACT, *MODELS, *SETUP]
        print(f"error: there is no command {name}; {advice(name, known)} (see slhf --help)", file=sys.stderr)
        return 2
    try:
        for package in command.needs:
            require(package, f"slhf {name}", "llm")
    except MissingResource as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    answer = import_module(f"experiments.{command.module}").main
    return answer([*rest, *command.given], f"slhf {name}")


def overview() -> str:
    """The help: what there is, one line each, in groups."""
    groups = {
        "exact, on a preference matrix": EXACT,
        "on language models": {name: command.line for name, command in MODELS.items()},
        "this installation": {name: command.line for name, command in SETUP.items()},
    }
    lines = ["usage: slhf COMMAND ...", "", "How preferences become a policy: RLHF, NLHF and SLHF."]
    for title, commands in groups.items():
        lines += ["", f"{title}:", *(f"  {name:13} {line}" for name, line in commands.items())]
    return "\n".join([*lines, "", EXAMPLES]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
