"""Preferences: which of two answers to a conversation was preferred."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from slhf.errors import InvalidData, InvalidParameter, require_at_least

MARKER = re.compile(r"\n\n(Human|Assistant):")


class Message(TypedDict):
    """One turn of a conversation; the role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Comparison:
    """Two answers to the same conversation, one preferred."""

    conversation: tuple[Message, ...]
    """Ends with a user's turn."""
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PreferenceConfig:
    """Where preferences come from, and which of them are used."""

    source: str
    """A local file (JSONL, Parquet, CSV), the id of a data set on the hub, or a preset: helpsteer2, ultrafeedback,
    tulu3, hh."""
    heldout_share: float = 0.1
    """Share of the conversations that are held out, by a hash of their first turn, where the data have no split."""
    max_characters: int | None = None
    """Longest conversation together with its longer answer, in characters; null for no limit."""
    limit: int | None = None
    """How many comparisons of each split; null for all."""
    ties: Literal["drop", "coin"] = "drop"
    """Of rated answers: what becomes of a pair whose ratings agree in mean and deviation. "coin" gives it to either,
    by a hash, as in the paper."""

    def __post_init__(self) -> None:
        require_at_least(self, max_characters=1, limit=1)
        if not 0 < self.heldout_share < 1:
            raise InvalidParameter(f"PreferenceConfig.heldout_share = {self.heldout_share}: must lie between 0 and 1.")


def load_preferences(source: PreferenceConfig, split: Literal["train", "heldout"]) -> dict[str, list[Comparison]]:
    """The comparisons of one split, by attribute; data with a single preference use the attribute "preference".

    Raises:
        InvalidData: a file is missing, empty or malformed; its row and field are named.
    """
    path = Path(source.source)
    if not path.is_file():
        raise InvalidData(f"There is no preference file {source.source!r}.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            *conversation, chosen = _turns(row["chosen"], f'{path}, line {number}: "chosen"')
            *_, rejected = _turns(row["rejected"], f'{path}, line {number}: "rejected"')
            comparison = Comparison(tuple(conversation), chosen["content"], rejected["content"])
            if _held_out(conversation[0]["content"], source.heldout_share) == (split == "heldout"):
                found.append(comparison)
    return {"preference": found[: source.limit]}


def _turns(text: str, where: str) -> list[Message]:
    before, *pieces = MARKER.split(text)
    if before.strip() or len(pieces) < 4 or pieces[-2] != "Assistant":
        raise InvalidData(f'{where} is not of the form "\\n\\nHuman: ...\\n\\nAssistant: ...".')
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[r], "content": c.strip()} for r, c in zip(pieces[::2], pieces[1::2], strict=True)]


def _held_out(text: str, share: float) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
