"""Preferences: which of two answers to a conversation is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llm.data.conversations import answered, helpsteer_prompt
from llm.data.selection import DataConfig, Tally, cut, select
from llm.data.sources import Message, Split, Table, open_source
from slhf.errors import InvalidParameter
from slhf.runs import derive_seed

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What HelpSteer2 rates, each from 0 to 4."""
LESS_IS_BETTER = ("complexity", "verbosity")
"""Attributes whose verdicts are turned round (arXiv 2512.16626)."""
EQUAL = 1e-8
"""Means and deviations of a few small integers that differ by less are the same."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to the same conversation, one preferred."""

    conversation: tuple[Message, ...]
    """Ends with a user's turn."""
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PreferenceConfig(DataConfig):
    """Where preferences come from, and which of them are used."""

    ties: Literal["drop", "coin"] = "drop"
    """Of two rated answers whose ratings agree in mean and deviation: "drop" the comparison, or give it to either by a
    "coin" (a hash), as the paper does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ties not in ("drop", "coin"):
            raise InvalidParameter(f'PreferenceConfig.ties = {self.ties!r}: must be "drop" or "coin".')


class Pair(NamedTuple):
    """Two answers to a conversation, and by attribute whether the first is preferred; None for neither."""

    conversation: tuple[Message, ...]
    first: str
    second: str
    verdicts: dict[str, bool | None]


def load_preferences(source: PreferenceConfig, split: Split) -> dict[str, list[Comparison]]:
    """The comparisons of one split, by attribute; data with a single preference use the attribute "preference".

    A table needs either columns "chosen" and "rejected" (see :func:`llm.data.conversations.answered`), or "prompt",
    "response" and a column for each of ``ATTRIBUTES`` with a rating or a list of ratings, two rows in a row for each
    prompt (HelpSteer2). Rated answers are compared by mean, at equal means the lower standard deviation wins, and
    "complexity" and "verbosity" are then turned round (arXiv 2512.16626).

    What cannot be read is an error. What can be read but is no comparison, such as two equal answers, is left out,
    counted and reported.

    Raises:
        InvalidData: a file is missing, empty or malformed (row and field are named), or nothing is left of the split.
        MissingResource: the data set is not to be had from the hub.
    """
    tally = Tally(source.source)
    rows = (row for table in open_source(source.source) for row in _pairs(table, tally))
    found = select(rows, prompt=_opening, length=_length, config=source, tally=tally)
    pairs = cut(found, split, source, tally, "comparison")
    comparisons: dict[str, list[Comparison]] = {name: [] for name in pairs[0].verdicts}
    ties = Tally(f"{source.source}, {split}")
    for pair in pairs:
        for name, verdict in pair.verdicts.items():
            ties.rows += 1
            if verdict is None and source.ties == "coin":
                verdict = derive_seed("tie", name, pair.conversation[-1]["content"], pair.first, pair.second) % 2 == 0
            if verdict is None:
                ties.drop(f"tied in {name}")
            else:
                winner, loser = (pair.first, pair.second) if verdict else (pair.second, pair.first)
                comparisons[name].append(Comparison(pair.conversation, winner, loser))
    ties.report(", ".join(f"{len(found)} of {name}" for name, found in comparisons.items()))
    return comparisons


def _pairs(table: Table, tally: Tally) -> Iterator[tuple[Split | None, Pair]]:
    """The pairs of a table with the split of each."""
    tally.rows += table.rows
    if table.has("prompt", "response", *ATTRIBUTES):
        yield from _rated(table, tally)
    elif table.has("chosen", "rejected"):
        yield from _chosen_and_rejected(table, tally)
    else:
        raise table.lacks(f'columns "chosen" and "rejected", or "prompt", "response", {", ".join(ATTRIBUTES)}')


def _chosen_and_rejected(table: Table, tally: Tally) -> Iterator[tuple[Split | None, Pair]]:
    sides, scores = table.sides(), ("score_chosen", "score_rejected")
    equal = [False] * table.rows
    if table.has(*scores):
        equal = [a == b for a, b in zip(*(table.ratings(name)[0] for name in scores), strict=True)]
    chosen, rejected = answered(table, "chosen"), answered(table, "rejected")
    for row, (side, better, worse) in enumerate(zip(sides, chosen, rejected, strict=True)):
        reason = "of equal score" if equal[row] else _unfit(better, worse)
        if reason:
            tally.drop(reason, table, row)
        else:
            conversation, answers = tuple(better[:-1]), (better[-1]["content"], worse[-1]["content"])
            yield side, Pair(conversation, *answers, {"preference": True})


def _unfit(better: list[Message], worse: list[Message]) -> str | None:
    """Why these are not two answers to one conversation; None if they are."""
    for turns in (better, worse):
        if [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
            return "that do not end with an answer to the user"
        if not turns[-1]["content"].strip():
            return "with an empty answer"
    if better[:-1] != worse[:-1]:
        return "whose conversations differ before the answer"
    return "whose answers are the same" if better == worse else None


def _rated(table: Table, tally: Tally) -> Iterator[tuple[Split | None, Pair]]:
    sides, prompts, responses = table.sides(), table.texts("prompt"), table.texts("response")
    moments = {name: table.ratings(name) for name in ATTRIBUTES}
    row = 0
    while row < len(prompts):
        other = row + 1
        if other == len(prompts) or prompts[row] != prompts[other]:
            tally.drop("without a second response", table, row)
            row += 1
            continue
        if not responses[row].strip() or not responses[other].strip() or responses[row] == responses[other]:
            tally.drop("in pairs with an empty answer or the same answer twice", table, row)
            tally.drop("in pairs with an empty answer or the same answer twice", table, other)
        else:
            verdicts = {
                name: _verdict(name, mean[row] - mean[other], deviation[row] - deviation[other])
                for name, (mean, deviation) in moments.items()
            }
            yield sides[row], Pair(tuple(helpsteer_prompt(prompts[row])), responses[row], responses[other], verdicts)
        row += 2


def _verdict(attribute: str, mean: float, deviation: float) -> bool | None:
    """Whether the first of two answers wins, given by how much its ratings' mean and deviation exceed the second's."""
    if abs(mean) <= EQUAL and abs(deviation) <= EQUAL:
        return None
    wins = bool(mean > 0 if abs(mean) > EQUAL else deviation < 0)
    return wins != (attribute in LESS_IS_BETTER)


def _opening(pair: Pair) -> str:
    """What the user says first."""
    return next(turn["content"] for turn in pair.conversation if turn["role"] == "user")


def _length(pair: Pair) -> int:
    return sum(len(turn["content"]) for turn in pair.conversation) + max(len(pair.first), len(pair.second))
