"""Prompts: single turns of a user, and which of them a step of training sees."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from llm.data.conversations import answered, helpsteer_prompt
from llm.data.preferences import ATTRIBUTES
from llm.data.selection import DataConfig, Tally, cut, select
from llm.data.sources import Message, Split, Table, open_source
from slhf.runs import content_hash, derive_seed

EMBEDDED = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True)
class PromptConfig(DataConfig):
    """Where prompts come from, and which of them are used."""

    source: str = "embedded"
    """"embedded" (written for this project); a local file (.jsonl, .parquet or .csv) with texts "prompt", or lists
    "messages" that end with the user's turn, and if wanted "split" (train or heldout); the id of a data set on the hub
    (owner/name, or owner/name/folder); or a preset: helpsteer2, ultrafeedback, tulu3, hh. Prompts are single turns:
    longer conversations are left out, counted and reported."""


@cache
def identity(config: PromptConfig) -> dict[str, Any]:
    """What a run's prompts are, to name it by: the settings and, of other sources than the embedded, a digest of the
    texts, so that a file that was edited makes another run."""
    settings = asdict(config)
    if config.source != "embedded":
        settings["content"] = content_hash({split: load_prompts(config, split) for split in get_args(Split)})
    return settings


def load_prompts(source: str | PromptConfig, split: Split) -> list[str]:
    """The prompts of one split, each once: the embedded ones in file order, others in the order of a hash.

    A table needs one of the columns "prompt" (texts), "messages" or "conversation" (lists of messages that end with
    the user's turn), or "chosen" as in :func:`llm.data.load_preferences`. Rows whose conversation is not a single
    turn of the user are left out, counted and reported, as are empty prompts and repetitions.

    Args:
        source: the settings, or their ``source`` alone.
        split: "train" or "heldout".

    Raises:
        InvalidData: a file is missing, empty or malformed (row and field are named), or nothing is left of the split.
        MissingResource: the data set is not to be had from the hub.
    """
    config = PromptConfig(source) if isinstance(source, str) else source
    tally, embedded = Tally(config.source), config.source == "embedded"
    rows = _embedded() if embedded else _single_turns(open_source(config.source), tally)
    found = select(rows, prompt=str, length=len, config=config, tally=tally, in_file_order=embedded)
    return cut(found, split, config, tally, "prompt")


def _embedded() -> Iterator[tuple[Split | None, str]]:
    for line in EMBEDDED.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["split"], row["prompt"]


def _single_turns(tables: list[Table], tally: Tally) -> Iterator[tuple[Split | None, str]]:
    """The prompts of all tables, each once (white space around it aside) for each split that the data put it in."""
    seen: set[tuple[Split | None, str]] = set()
    for table in tables:
        tally.rows += table.rows
        for row, (side, turns) in enumerate(zip(table.sides(), _conversations(table), strict=True)):
            if [turn["role"] for turn in turns] != ["user"]:
                tally.drop("of more than the user's single turn", table, row)
            elif not turns[0]["content"].strip():
                tally.drop("with an empty prompt", table, row)
            elif (side, turns[0]["content"].strip()) in seen:
                tally.drop("repeating a prompt", table, row)
            else:
                seen.add((side, turns[0]["content"].strip()))
                yield side, turns[0]["content"]


def _conversations(table: Table) -> list[list[Message]]:
    """What was said in each row before the answer.

    Raises:
        InvalidData: the table has no such column, or a row cannot be read.
    """
    if table.has("prompt", "response", *ATTRIBUTES):
        return [helpsteer_prompt(text) for text in table.texts("prompt")]
    if table.has("chosen"):
        return [turns[:-1] for turns in answered(table, "chosen")]
    if table.has("prompt") and not table.holds_messages("prompt"):
        return [[Message(role="user", content=text)] for text in table.texts("prompt")]
    for column in filter(table.has, ("prompt", "messages", "conversation")):
        found = table.messages(column)
        for row, turns in enumerate(found):
            if not turns or turns[-1]["role"] != "user":
                raise table.malformed(row, column, "must end with the user's turn")
        return found
    raise table.lacks('a column "prompt", "messages", "conversation" or "chosen"')


def batch_at(prompts: list[str], batch_size: int, step: int, seed: int) -> list[str]:
    """The prompts of one step: each epoch is a fresh permutation, addressed by (seed, epoch).

    A batch may span epochs; which prompts step t sees does not depend on the steps before it.
    """
    order: dict[int, list[str]] = {}

    def nth(i: int) -> str:
        epoch, place = divmod(i, len(prompts))
        if epoch not in order:
            shuffled = list(prompts)
            random.Random(derive_seed(seed, "epoch", epoch)).shuffle(shuffled)
            order[epoch] = shuffled
        return order[epoch][place]

    return [nth(i) for i in range(step * batch_size, (step + 1) * batch_size)]
