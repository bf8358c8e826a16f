"""Which rows are used, for what, and in which order; and what was left out, counted and said."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from llm.data.sources import Split, Table
from slhf.errors import InvalidData, InvalidParameter, require_at_least

T = TypeVar("T")

LOG = logging.getLogger("llm.data")

_REPORTED: set[str] = set()


@dataclass(frozen=True)
class DataConfig:
    """Where data come from, and which of them are used."""

    source: str
    """A local file (.jsonl, .json, .csv, .tsv or .parquet), the id of a data set on the hub (owner/name, or
    owner/name/folder), or a preset: helpsteer2, ultrafeedback, tulu3, hh."""
    heldout_share: float = 0.1
    """Share of the prompts that is held out, by a hash of the text, where the data have no split of their own."""
    max_characters: int | None = None
    """Rows with more characters (prompts: of the prompt; preferences: of the conversation with the longer answer) are
    left out; null for no limit."""
    limit: int | None = None
    """How many rows of each split are used; null for all. Rows come in the order of a hash of their prompt, so the
    first so many are a sample of the whole."""

    def __post_init__(self) -> None:
        require_at_least(self, max_characters=1, limit=1)
        if not 0 < self.heldout_share < 1:
            raise InvalidParameter(
                f"{type(self).__name__}.heldout_share = {self.heldout_share}: must lie between 0 and 1."
            )


class Tally:
    """Counts the rows of a source, and of those left out the reason and the place of the first."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, 0
        self.dropped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.unread: Counter[str] = Counter()
        """By column that is not read, though it can change what a prompt means, the rows with a value."""

    def drop(self, reason: str, table: Table | None = None, row: int = 0) -> None:
        """Count a row that is left out."""
        if table is not None and reason not in self.first:
            self.first[reason] = f" (first: {table.place(row)})"
        self.dropped[reason] += 1

    def summary(self) -> str:
        """ "12 rows; left out: 3 with an empty answer (first: FILE, line 7), ..."."""
        reasons = [f"{count:,} {reason}{self.first.get(reason, '')}" for reason, count in self.dropped.items()]
        unread = [f'column "{name}" of {count:,} rows' for name, count in self.unread.items() if count]
        ignored = f"; not read, though it can change what a prompt means: {', '.join(unread)}" if unread else ""
        return f"{self.rows:,} rows; left out: {', '.join(reasons) or 'none'}{ignored}"

    def report(self, used: str) -> None:
        """Say on standard error what was left out or not read, if anything was, once."""
        text = f"{self.name}: {self.summary()}; used: {used}."
        if (self.dropped or self.unread.total()) and text not in _REPORTED:
            _REPORTED.add(text)
            LOG.warning(text)


def select(
    rows: Iterable[tuple[Split | None, T]],
    prompt: Callable[[T], str],
    length: Callable[[T], int],
    config: DataConfig,
    tally: Tally,
    *,
    in_file_order: bool = False,
) -> dict[Split, list[T]]:
    """The rows of each split, in the order of a hash of their prompt.

    A row without a split is held out if the hash of its prompt is below ``heldout_share``: what is decided by
    the text alone stays the same when rows are added. No prompt is on both sides, white space around it aside; where
    the data put one there, its rows for training are left out.

    Args:
        rows: split and row.
        prompt: the text that rows are split and ordered by: what the user says first.
        length: of a row, in characters.
        config: the filters.
        tally: told what is left out.
        in_file_order: keep the order of ``rows``.
    """
    found: dict[Split, list[tuple[int, T]]] = {"train": [], "heldout": []}
    for side, row in rows:
        if config.max_characters is not None and length(row) > config.max_characters:
            tally.drop(f"of more than {config.max_characters:,} characters")
            continue
        place = _hash(prompt(row).strip())
        found[side or ("heldout" if place < config.heldout_share * 2**64 else "train")].append((place, row))
    held_out = {place for place, _ in found["heldout"]}
    train = [entry for entry in found["train"] if entry[0] not in held_out]
    if len(train) < len(found["train"]):
        tally.dropped["for training whose prompt is also held out"] = len(found["train"]) - len(train)
    found["train"] = train
    if not in_file_order:
        for entries in found.values():
            entries.sort(key=lambda entry: (entry[0], prompt(entry[1])))
    return {side: [row for _, row in entries] for side, entries in found.items()}


def cut(found: dict[Split, list[T]], split: Split, config: DataConfig, tally: Tally, what: str) -> list[T]:
    """One split after the limit; reports what was left out.

    Raises:
        InvalidData: nothing is left of it.
    """
    if split not in found:
        raise InvalidData(f"There is no split {split!r}; there are {', '.join(found)}.")
    used = {side: entries[: config.limit] for side, entries in found.items()}
    beyond = sum(len(entries) - len(used[side]) for side, entries in found.items())
    if beyond:
        tally.dropped[f"beyond the limit of {config.limit:,} a split"] = beyond
    if not used[split]:
        one = sum(map(len, used.values())) == 1
        share = f"a {'smaller' if split == 'train' else 'larger'} heldout_share"
        advice = f"one {what} alone is either for training or held out, so give more" if one else f"give {share}"
        raise InvalidData(
            f"{config.source} has no {what} of the split {split!r} ({tally.summary()}): {advice}, other rows or "
            'limits, or a column "split" with train and heldout.'
        )
    tally.report(", ".join(f"{len(entries):,} {side}" for side, entries in used.items()))
    return used[split]


def _hash(text: str) -> int:
    """64 bits of a text, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
