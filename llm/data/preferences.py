"""Preferences: which of two answers to a conversation is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from llm.data.conversations import Conversations, LeftOut
from llm.data.selection import DataConfig, Tally, cut, select
from llm.data.sources import Message, Split, Table, number, open_source
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
    """Ends with a user's turn; may start with the system's."""
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PreferenceConfig(DataConfig):
    """Where preferences come from, and which of them are used."""

    ties: Literal["drop", "coin"] = "drop"
    """Of two answers with equal ranks, or with ratings that agree in mean and deviation: "drop" the comparison, or give
    it to either by a "coin" (a hash), as the paper does."""

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

    A table needs, beside what is said before the answer (see :mod:`llm.data.conversations`),

    - "chosen" and "rejected", which may also hold whole conversations;
    - or "response1", "response2" and "overall_preference", from -3 (the first is much better) to 3 (HelpSteer3);
    - or "answers", a list of objects with "answer" and "rank" (1 is best; Nectar), or texts beside a list "ranks": each
      two of them are a comparison;
    - or "response" and a column for each of ``ATTRIBUTES`` with a rating or a list of ratings, two rows in a row for
      each prompt (HelpSteer2). Rated answers are compared by mean, at equal means the lower standard deviation wins,
      and "complexity" and "verbosity" are then turned round (arXiv 2512.16626).

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
    said = Conversations(table)
    tally.unread.update(said.unread)
    if table.has("prompt", "response", *ATTRIBUTES):
        yield from _rated(said, tally)
        return
    if table.has("chosen", "rejected"):
        pairs_of = _chosen_and_rejected
    elif table.has("response1", "response2", "overall_preference"):
        pairs_of = _preferred
    elif table.has("answers"):
        pairs_of = _ranked
    else:
        raise table.lacks(
            'columns "chosen" and "rejected", or "response1", "response2" and "overall_preference", or "answers" with '
            f'ranks, or "prompt", "response", {", ".join(ATTRIBUTES)}'
        )
    for row, side in enumerate(table.sides()):
        try:
            yield from ((side, pair) for pair in pairs_of(said, row))
        except LeftOut as reason:
            tally.drop(str(reason), table, row)


def _chosen_and_rejected(said: Conversations, row: int) -> list[Pair]:
    if said.table.has("score_chosen", "score_rejected"):
        ours, theirs = (said.values(name)[row] for name in ("score_chosen", "score_rejected"))
        if number(ours) is None or number(theirs) is None:
            raise said.table.malformed(row, "score_chosen", f"and score_rejected must be numbers: {ours!r}, {theirs!r}")
        if number(ours) == number(theirs):
            raise LeftOut("of equal score")
    better, worse = said.answered(row, "chosen"), said.answered(row, "rejected")
    if reason := _unfit(better, worse):
        raise LeftOut(reason)
    return [Pair(tuple(better[:-1]), better[-1]["content"], worse[-1]["content"], {"preference": True})]


def _preferred(said: Conversations, row: int) -> list[Pair]:
    """Two responses and how much better the second is."""
    opening, answers = said.opening(row), [said.values(name)[row] for name in ("response1", "response2")]
    value = said.values("overall_preference")[row]
    preference = number(value)
    if preference is None:
        raise said.table.malformed(row, "overall_preference", f"must be a number, not {value!r:.60}")
    for name, answer in zip(("response1", "response2"), answers, strict=True):
        if not isinstance(answer, str):
            raise said.table.malformed(row, name, f"must be a text, not {answer!r:.60}")
    return _compared(opening, [(answers[0], preference), (answers[1], 0.0)])


def _ranked(said: Conversations, row: int) -> list[Pair]:
    """All pairs of answers with ranks."""
    answers = said.values("answers")[row]
    ranks = said.values("ranks")[row] if said.table.has("ranks") else None
    if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        answers, ranks = [one.get("answer") for one in answers], [one.get("rank") for one in answers]
    if not isinstance(answers, list) or not isinstance(ranks, list) or len(answers) != len(ranks):
        problem = 'must be a list of objects with "answer" and "rank", or of texts beside as many "ranks"'
        raise said.table.malformed(row, "answers", problem)
    ranked = []
    for text, given in zip(answers, ranks, strict=True):
        rank = number(given)
        if not isinstance(text, str) or rank is None:
            raise said.table.malformed(row, "answers", f"must be texts with ranks, not {text!r:.40} and {given!r:.20}")
        ranked.append((text, rank))
    return _compared(said.opening(row), ranked)


def _compared(opening: list[Message], answers: list[tuple[str, float]]) -> list[Pair]:
    """All pairs of distinct answers; the lesser number wins."""
    if any(not text.strip() for text, _ in answers):
        raise LeftOut("with an empty answer")
    distinct = list({text: (text, rank) for text, rank in answers}.values())
    if len(distinct) < len(answers):
        raise LeftOut("whose answers are the same")
    if len(distinct) < 2:
        raise LeftOut("without a second response")
    return [
        Pair(tuple(opening), a, b, {"preference": None if p == q else p < q})
        for (a, p), (b, q) in combinations(distinct, 2)
    ]


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


def _rated(said: Conversations, tally: Tally) -> Iterator[tuple[Split | None, Pair]]:
    table = said.table
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
            yield sides[row], Pair(tuple(said.opening(row)), responses[row], responses[other], verdicts)
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
