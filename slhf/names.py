"""What to say about a name that does not exist: the one that was meant, or all there are."""

from __future__ import annotations

import re
from collections.abc import Iterable

SYNONYMS = {
    "beta": "tau",
    "kl": "tau",
    "eta": "learning_rate",
    "kappa": "timescale",
    "epochs": "steps",
    "iterations": "steps",
    "r": "rank",
    "max_length": "max_new_tokens",
    "reinforce": "rloo",
    "rlhf": "rloo",
    "nlhf": "nash_md",
    "slhf": "stackelberg_gda",
}
"""Symbols of the papers and other projects' words, with ours."""

AT_MOST = 3
"""So many names may be meant at once; more are no help."""

NEVER = (9, 0)


def advice(name: str, known: Iterable[str]) -> str:
    """ "did you mean learning_rate?", or, where no name is near enough to be meant, "valid are ..." with all of them.

    Of dotted paths only those with the same beginning, if there are any.
    """
    names = list(dict.fromkeys(known))
    close = meant(name, names)
    if close:
        return f"did you mean {' or '.join(close)}?"
    sections = dict.fromkeys(one.rpartition(".")[0] for one in names if "." in one)
    within = meant(name.rpartition(".")[0] or name, sections)
    inside = [one for one in names if one.rpartition(".")[0] in within]
    return f"valid are {', '.join(inside or names)}"


def meant(name: str, known: Iterable[str]) -> list[str]:
    """The names that ``name`` most likely stands for, the equally likely ones, at most ``AT_MOST``; none if in doubt.

    In this order: other case or separators (Online-DPO), a synonym, a part of the words (dpo for online_dpo), an
    abbreviation (lr), a slip of the keyboard, a slip in some of the words, a piece of a word (scale for timescale).
    """
    grades = {one: _grade(name, one) for one in known}
    best = min(grades.values(), default=NEVER)
    close = [one for one, grade in grades.items() if grade == best != NEVER]
    return close if len(close) <= AT_MOST else []


def _grade(typed: str, name: str) -> tuple[int, int]:
    """How far apart they are: which rule makes them the same, then by how much. Of a dotted path the worst part's."""
    parts, others = typed.split("."), name.split(".")
    if len(parts) != len(others):
        return NEVER
    return max(_grade_part(_words(part), _words(other)) for part, other in zip(parts, others, strict=True))


def _grade_part(typed: list[str], name: list[str]) -> tuple[int, int]:
    short, long = "".join(typed), "".join(name)
    extra = len(name) - len(typed)
    if short == long:
        return 0, 0
    if SYNONYMS.get("_".join(typed)) == "_".join(name):
        return 1, 0
    if typed and name and (set(typed) < set(name) or set(name) < set(typed)):
        return 2, abs(extra)
    if _abbreviates(short, name):
        return 3, len(long) - len(short)
    if _slip(short, long):
        return 4, _distance(short, long)
    if typed and all(any(a == b or _slip(a, b) for b in name) for a in typed):
        return 5, abs(extra)
    if len(short) >= 4 and short in long:
        return 6, len(long) - len(short)
    return NEVER


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def _abbreviates(short: str, words: list[str]) -> bool:
    """Whether ``short`` is made of the beginnings of all the words, in order; of a single word at least 3 letters."""
    if len(words) == 1:
        return len(short) >= 3 and words[0].startswith(short)
    return re.fullmatch("".join(_beginnings(word) for word in words), short) is not None


def _beginnings(word: str) -> str:
    """A pattern for the first letters of a word, at least one: "r(?:a(?:t(?:e)?)?)?"."""
    return "(?:".join(map(re.escape, word)) + ")?" * (len(word) - 1)


def _slip(a: str, b: str) -> bool:
    """Whether one may have been typed for the other: with a letter in four wrong; words of three with two letters
    exchanged or one doubled."""
    length = min(len(a), len(b))
    if length < 4:
        doubled = re.sub(r"(.)\1", r"\1", a) == re.sub(r"(.)\1", r"\1", b)
        return length == 3 and _distance(a, b) == 1 and (doubled or sorted(a) == sorted(b))
    return _distance(a, b) <= length // 4


def _distance(a: str, b: str) -> int:
    """Letters to insert, remove, replace or exchange with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (x != y)))
            if i > 1 and j > 1 and (x, y) == (b[j - 2], a[i - 2]):
                new[j] = min(new[j], before[j - 2] + 1)
        before, row = row, new
    return row[-1]
