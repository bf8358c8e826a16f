"""Prompts: single turns of a user, and which of them a step of training sees."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from llm.data.conversations import Conversations, LeftOut
from llm.data.selection import DataConfig, Tally, cut, select
from llm.data.sources import Message, Split, Table, open_source
from slhf.runs import content_hash, derive_seed
from slhf.text import read_text, split_lines

EMBEDDED = Path(__file__).with_name("prompts.jsonl")


class Prompt(str):
    """What a user says after a system message of its own; another prompt than the same text without one.

    Attributes:
        system: the system message.
    """

    system: str

    def __new__(cls, text: str, system: str) -> Prompt:
        """The text that the user says after ``system``."""
        prompt = super().__new__(cls, text)
        prompt.system = system
        return prompt

    def __reduce__(self) -> tuple[type[Prompt], tuple[str, str]]:
        return Prompt, (str(self), self.system)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and str(self) == str(other) and self.system == other.system

    def __ne__(self, other: object) -> bool:  # str has one of its own
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), self.system))


def conversation(prompt: str) -> list[Message]:
    """The messages of a prompt, as a chat template takes them: the system's, if it has one, and the user's."""
    system = [Message(role="system", content=prompt.system)] if isinstance(prompt, Prompt) else []
    return [*system, Message(role="user", content=str(prompt))]


def prompt_of(described: str | Sequence[Message]) -> str:
    """The inverse of :func:`conversation`; a text is itself."""
    if isinstance(described, str):
        return described
    *system, user = [turn["content"] for turn in described]
    return Prompt(user, *system) if system else user


def described(prompts: Sequence[str]) -> list[str | list[Message]]:
    """Prompts as JSON: texts, and messages where there is a system message."""
    return [conversation(x) if isinstance(x, Prompt) else x for x in prompts]


@dataclass(frozen=True)
class PromptConfig(DataConfig):
    """Where prompts come from, and which of them are used."""

    source: str = "embedded"
    """"embedded" (written for this project); a local file (.jsonl, .json, .csv, .tsv, .parquet, or .txt with a prompt a
    line) with texts "prompt", "instruction" or "question", or lists "messages" or "conversations", and if wanted
    "system" and "split" (train or heldout); the id of a data set on the hub (owner/name, or owner/name/folder); or a
    preset: helpsteer2, ultrafeedback, tulu3, hh. Prompts are single turns of the user, after a system message where
    there is one: longer conversations are left out, counted and reported."""


@cache
def identity(config: PromptConfig) -> dict[str, Any]:
    """What a run's prompts are, to name it by: the settings and, of other sources than the embedded, a digest of the
    texts, so that a file that was edited makes another run."""
    settings = asdict(config)
    if config.source != "embedded":
        settings["content"] = content_hash({split: described(load_prompts(config, split)) for split in get_args(Split)})
    return settings


def load_prompts(source: str | PromptConfig, split: Split) -> list[str]:
    """The prompts of one split, each once: the embedded ones in file order, others in the order of a hash.

    What is said before the answer is found as for preferences (see :mod:`llm.data.conversations`). Rows in which that
    is not a single turn of the user, with or without a system message (a :class:`Prompt`), are left out, counted and
    reported, as are empty prompts and repetitions.

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
    for line in split_lines(read_text(EMBEDDED)):
        row = json.loads(line)
        yield row["split"], row["prompt"]


def _single_turns(tables: list[Table], tally: Tally) -> Iterator[tuple[Split | None, str]]:
    """The prompts of all tables, each once (white space around it aside) for each split that the data put it in."""
    seen: set[tuple[Split | None, str]] = set()
    for table in tables:
        tally.rows += table.rows
        said = Conversations(table)
        tally.unread.update(said.unread)
        for row, side in enumerate(table.sides()):
            try:
                prompt = single_turn(said, row)
                if (side, stripped(prompt)) in seen:
                    raise LeftOut("repeating a prompt")
            except LeftOut as reason:
                tally.drop(str(reason), table, row)
            else:
                seen.add((side, stripped(prompt)))
                yield side, prompt


def single_turn(said: Conversations, row: int) -> str:
    """The prompt of a row, a :class:`Prompt` if it has a system message.

    Raises:
        InvalidData: the table has no column of prompts, or the row cannot be read.
        LeftOut: it is no prompt of a single turn.
    """
    turns = said.answered(row, "chosen")[:-1] if said.table.has("chosen") else said.opening(row)
    if [turn["role"] for turn in turns] not in (["user"], ["system", "user"]):
        raise LeftOut("of more than the user's single turn")
    if not turns[-1]["content"].strip():
        raise LeftOut("with an empty prompt")
    return prompt_of(turns)


def stripped(prompt: str) -> str:
    """The prompt without white space around it."""
    return Prompt(prompt.strip(), prompt.system) if isinstance(prompt, Prompt) else prompt.strip()


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
