"""``python experiments/export.py RUN --to alpaca_eval|lm_eval``: take a trained policy to other evaluations."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tqdm import tqdm
from transformers import AutoTokenizer

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import contestants, process
from experiments.evaluation import Contestant
from llm import embedded
from llm.data import PromptConfig, Split, load_prompts
from llm.embedded import from_pretrained
from llm.plain_generator import sampler
from llm.policy import default_device, merged
from llm.precision import Dtype, resolve
from llm.refine import refine
from slhf.errors import ConfigError, InvalidData
from slhf.runs import derive_seed, write_directory, write_json

AT_ONCE = 64
"""Prompts answered together."""


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


def main(arguments: list[str] | None = None) -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, "export.py", work, arguments, "nothing was written.")


def work(command: Command) -> None:
    """Write the export, and print the command that uses it."""
    process.prepare()
    check_options(command)
    embedded.refuse_foreign_llm()
    found = contestants.resolve(title_of(command.run), command.run)
    (one,) = contestants.sampled_alike([found], command.temperature, command.max_new_tokens, command.dtype)
    print(to_alpaca_eval(one, command) if command.to == "alpaca_eval" else to_lm_eval(one, command))


def check_options(command: Command) -> None:
    """Refuse options that would change nothing.

    Raises:
        ConfigError: naming them.
    """
    sampling = ("prompts", "split", "name", "temperature", "max_new_tokens", "seed")
    idle = [key for key in sampling if getattr(command, key) is not None]
    if idle and command.to == "lm_eval":
        raise ConfigError(f"--{', --'.join(key.replace('_', '-') for key in idle)}: only with --to alpaca_eval.")
    if command.split is not None and Path(command.prompts or "embedded").suffix == ".json":
        raise ConfigError(f"--split {command.split}: {command.prompts} has no splits; all of it is answered.")


def title_of(what: str) -> str:
    """The name of the run's directory, also for a checkpoint in it; of anything else its own."""
    path = Path(what).expanduser()
    return (contestants.run_of(path) or path).resolve().name


def to_alpaca_eval(one: Contestant, command: Command) -> str:
    """Write the model outputs; returns the command that evaluates them."""
    prompts = contestants.prompts_as_trained(command.prompts or "embedded", [command.run])
    rows = instructions(prompts, command.split or "heldout")
    policy = one.load()
    generator, rounds = sampler(policy), 2 if command.role == "follower" else 1
    generator_name = command.name or f"{one.title} {command.role}"
    outputs: list[dict[str, Any]] = []
    for start in tqdm(range(0, len(rows), AT_ONCE), desc="answers", unit="batch"):
        batch = rows[start : start + AT_ONCE]
        seed = derive_seed(command.seed or 0, "alpaca_eval", start)
        asked = [row["instruction"] for row in batch]
        texts = refine(policy, generator, asked, rounds, one.model.max_new_tokens, seed)[-1]
        outputs += [
            {**row, "output": text, "generator": generator_name} for row, text in zip(batch, texts, strict=True)
        ]
    write_json(command.out, outputs)
    return f"alpaca_eval --model_outputs {shlex.quote(str(command.out))}"


def instructions(prompts: PromptConfig, split: Split) -> list[dict[str, str]]:
    """Rows with "instruction" and, from AlpacaEval's own file, "dataset"; others belong to the data set "slhf".

    Raises:
        InvalidData: the file is not a list of objects with an instruction, or not prompts.
    """
    source = prompts.source
    path = Path(source)
    if path.suffix != ".json":
        return [{"dataset": "slhf", "instruction": prompt} for prompt in load_prompts(prompts, split)]
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidData(f"{source} cannot be read as JSON: {error}.") from error
    if not isinstance(rows, list) or not rows:
        raise InvalidData(f'{source} must be a list of objects with "instruction", as AlpacaEval\'s alpaca_eval.json.')
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str) or not row["instruction"].strip():
            raise InvalidData(f'{source}, entry {number}: needs a non-empty string "instruction".')
    return [{"dataset": str(row.get("dataset", "slhf")), "instruction": row["instruction"]} for row in rows]


def to_lm_eval(one: Contestant, command: Command) -> str:
    """Write the merged model; returns the command that evaluates it on IFEval.

    Raises:
        ConfigError: the role is the Follower's, or something is already at ``out``.
    """
    if command.role == "follower":
        raise ConfigError("The harness asks a model once and a Follower needs an answer to improve: use --role leader.")
    if command.out.exists():
        raise ConfigError(f"{command.out} exists; move it away or give another --out.")
    dtype = resolve(command.dtype or "float32", default_device())
    model = merged(one.model.name, one.adapter, dtype)

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        from_pretrained(AutoTokenizer, one.model.name).save_pretrained(path)

    write_directory(command.out, fill)
    model_args = shlex.quote(f"pretrained={command.out},dtype={dtype}")
    return f"lm_eval --model hf --model_args {model_args} --tasks ifeval --apply_chat_template --batch_size auto"


if __name__ == "__main__":
    sys.exit(main())
