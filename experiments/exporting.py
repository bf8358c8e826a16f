"""What ``experiments/export.py`` does once its arguments are understood."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import AutoTokenizer

from experiments import contestants, process
from experiments.evaluation import Contestant
from llm.chat import Chat
from llm.data import PromptConfig, Split, load_prompts
from llm.data.sources import open_source, suffix_of
from llm.embedded import from_pretrained
from llm.lengths import Player, fitting
from llm.plain_generator import sampler
from llm.policy import default_device, ends, merged
from llm.precision import resolve
from llm.refine import refine
from slhf.errors import ConfigError
from slhf.runs import derive_seed, write_directory, write_json

if TYPE_CHECKING:
    from experiments.export import Command

AT_ONCE = 64
"""Prompts answered together."""


def work(command: Command, title: str) -> str:
    """Write the export; returns the command that uses it."""
    process.prepare()
    found = contestants.resolve(title, command.run)
    (one,) = contestants.sampled_alike([found], command.temperature, command.max_new_tokens, command.dtype)
    return to_alpaca_eval(one, command) if command.to == "alpaca_eval" else to_lm_eval(one, command)


def to_alpaca_eval(one: Contestant, command: Command) -> str:
    """Write the model outputs; returns the command that evaluates them."""
    prompts = contestants.prompts_as_trained(command.prompts or "embedded", [command.run])
    rows = instructions(prompts, command.split)
    policy = one.load()
    generator, rounds = sampler(policy), 2 if command.role == "follower" else 1
    player = Player.of(policy, one.model.max_new_tokens, follows=rounds > 1)
    rows = [rows[i] for i in fitting([row["instruction"] for row in rows], [player])]
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


def instructions(prompts: PromptConfig, split: Split | None) -> list[dict[str, str]]:
    """Rows with "instruction" and "dataset": all of AlpacaEval's own file, which has both; else of the data set "slhf".

    Raises:
        InvalidData: the file cannot be read, an instruction is missing or empty, or there are no such prompts.
        ConfigError: a split is asked for of AlpacaEval's own file.
    """
    source = prompts.source
    table = open_source(source)[0] if suffix_of(Path(source)) == ".json" else None
    if table is None or not table.has("instruction", "dataset"):
        return [{"dataset": "slhf", "instruction": prompt} for prompt in load_prompts(prompts, split or "heldout")]
    if split is not None:
        raise ConfigError(f"--split {split}: {source} is AlpacaEval's and has no splits; all of it is answered.")
    rows = list(zip(table.texts("dataset"), table.texts("instruction"), strict=True))
    for row, (_, text) in enumerate(rows):
        if not text.strip():
            raise table.malformed(row, "instruction", "is empty")
    return [{"dataset": dataset, "instruction": text} for dataset, text in rows]


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
    model, tokenizer = merged(one.model.name, one.adapter, dtype), from_pretrained(AutoTokenizer, one.model.name)
    model.generation_config.eos_token_id = sorted(Chat(tokenizer, ends(model)).ends)

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    write_directory(command.out, fill)
    model_args = shlex.quote(f"pretrained={command.out},dtype={dtype}")
    return f"lm_eval --model hf --model_args {model_args} --tasks ifeval --apply_chat_template --batch_size auto"
