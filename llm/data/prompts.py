"""Prompts, from the set written for this project or from a file."""

from __future__ import annotations

import json
import random
from pathlib import Path

from slhf.errors import InvalidData
from slhf.runs import derive_seed

EMBEDDED = Path(__file__).with_name("prompts.jsonl")
SPLITS = ("train", "heldout")


def load_prompts(source: str, split: str) -> list[str]:
    """The prompts of one split, in file order.

    Args:
        source: "embedded", or the path of a JSONL file with string fields "prompt" and "split".
        split: "train" or "heldout".

    Raises:
        InvalidData: the file is missing, a line is not such an object (line and field are named), or the
            split is empty.
    """
    path = EMBEDDED if source == "embedded" else Path(source)
    if not path.is_file():
        raise InvalidData(f'There is no prompt file {source!r}. Give "embedded" or a JSONL file.')
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path} is not UTF-8 text: {error}.") from error
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidData(f"{path}, line {number}: not JSON ({error.msg}).") from error
        for key in ("prompt", "split"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
                raise InvalidData(f'{path}, line {number}: needs a non-empty string field "{key}".')
        if row["split"] not in SPLITS:
            raise InvalidData(
                f'{path}, line {number}: "split" is {row["split"]!r}; it must be one of {", ".join(SPLITS)}.'
            )
        if row["split"] == split:
            prompts.append(row["prompt"])
    if not prompts:
        raise InvalidData(f"{path} has no prompt of the split {split!r}.")
    return prompts


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
