"""Does a solution concept satisfy an axiom? Search for a profile that breaks it, the smallest first.

Anonymity is cut by counting voters, neutrality by letting some voter hold A > B > C ... . The search takes
all small profiles in turn, then random ones; what it finds it shrinks. All arithmetic is in integers, so no
verdict rests on rounding; and only profiles with a unique answer (before and after what the axiom changes)
count, so none rests on how ties are broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations_with_replacement
from typing import Any

import numpy as np

from slhf.errors import InvalidParameter
from tabular.axioms import AXIOMS, NAMES, RULES, Axiom, Ints, Mask, Rule, margins, orders, ranking, restrict, size

SMALL_SIZES = (3, 4)
"""Numbers of alternatives that are searched exhaustively; random profiles have the last."""
SPARSITY = 0.15
"""Dirichlet parameter of random profiles: small, so that few orders are held and cycles are frequent."""
MOST_PAIRS = 12
"""Random profiles have 3, 5, ... 2 MOST_PAIRS + 1 voters."""
SHRUNK = 20
"""How many counterexamples of a batch are shrunk, to keep the smallest."""
CHUNK = 10_000
"""Random profiles at once."""


@dataclass(frozen=True)
class Counterexample:
    """A profile that breaks an axiom, for reading and for checking.

    Attributes:
        electorates: for each, how many voters hold which ranking ("2", "A > B > C").
        text: what the axiom says about it.
        before: the probabilities of the alternatives that get any.
        after: those after the change that ``text`` names, if it names one.
    """

    electorates: tuple[tuple[tuple[int, str], ...], ...]
    text: str
    before: dict[str, Fraction]
    after: dict[str, Fraction] | None

    @property
    def alternatives(self) -> int:
        """How many alternatives there are."""
        return self.electorates[0][0][1].count(">") + 1

    @property
    def voters(self) -> int:
        """How many voters there are in all electorates."""
        return sum(count for electorate in self.electorates for count, _ in electorate)

    def __str__(self) -> str:
        lines = "\n  and\n".join("\n".join(f"  {c}: {r}" for c, r in electorate) for electorate in self.electorates)
        after = "" if self.after is None else f", then {_in_words(self.after)}"
        return f"{lines}\n  {self.text}: the answer is {_in_words(self.before)}{after}."


@dataclass(frozen=True)
class Verdict:
    """What the search found about one rule and one axiom.

    Attributes:
        rule: a key of ``RULES``.
        axiom: a key of ``AXIOMS``.
        searched: how many profiles were looked at.
        applied: to how many of them the axiom applied, with unique answers.
        counterexample: the smallest found, or None.
        smallest: whether all profiles up to the counterexample's numbers of alternatives and voters were tried.
    """

    rule: str
    axiom: str
    searched: int
    applied: int
    counterexample: Counterexample | None
    smallest: bool = False

    @property
    def summary(self) -> str:
        """In a few words."""
        found = self.counterexample
        if found is None:
            return f"none in {self.applied:,}"
        fewer = "" if self.smallest else " or fewer"
        return f"fails: {found.alternatives} alternatives, {found.voters} voters{fewer}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``; probabilities as fractions in text."""
        found = self.counterexample
        head: dict[str, Any] = {"rule": self.rule, "axiom": self.axiom, "searched": self.searched}
        head |= {"applied": self.applied, "smallest": self.smallest}
        if found is None:
            return head | {"counterexample": None}
        profile = [[{"count": c, "ranking": r.split(" > ")} for c, r in part] for part in found.electorates]
        before, after = ({k: str(q) for k, q in (d or {}).items()} for d in (found.before, found.after))
        return head | {
            "counterexample": {"electorates": profile, "text": found.text, "before": before, "after": after or None}
        }


def audit(rule: str, axiom: str, games: int = 20_000, seed: int = 0) -> Verdict:
    """Search for a counterexample: all small profiles, fewest alternatives and voters first, then random ones.

    Args:
        rule: a key of ``RULES``.
        axiom: a key of ``AXIOMS``.
        games: how many random profiles to try if no small one is found.
        seed: of the random profiles, which do not depend on the rule.

    Raises:
        InvalidParameter: unknown names, or a negative number of games or seed.
    """
    for name, known in ((rule, RULES), (axiom, AXIOMS)):
        if name not in known:
            raise InvalidParameter(f"{name!r} is unknown; choose one of {', '.join(known)}.")
    for name, number in (("games", games), ("seed", seed)):
        if number < 0:
            raise InvalidParameter(f"{name} = {number}: must not be negative.")
    searched = applied = 0
    n = SMALL_SIZES[-1]
    rng = np.random.default_rng([seed, list(AXIOMS).index(axiom)])
    small = ((True, counts) for counts in small_profiles(AXIOMS[axiom]))
    sizes = [min(CHUNK, games - k) for k in range(0, games, CHUNK)]
    large = ((False, random_profiles(AXIOMS[axiom], n, count, rng)) for count in sizes)
    for exhaustive, counts in chain(small, large):
        applies, broken = examine(RULES[rule], AXIOMS[axiom], counts)
        searched, applied = searched + len(counts), applied + int(applies.sum())
        if broken.any():
            found = min((shrink(rule, axiom, c) for c in _smallest(counts[broken])), key=_size)
            return Verdict(rule, axiom, searched, applied, explain(rule, axiom, found), exhaustive)
    return Verdict(rule, axiom, searched, applied, None)


def examine(rule: Rule, axiom: Axiom, counts: Ints) -> tuple[Mask, Mask]:
    """``(games,)`` twice: where the axiom applies with unique answers, and where it is broken."""
    applies, broken = np.zeros(len(counts), dtype=bool), np.zeros(len(counts), dtype=bool)
    n = size(counts[:, : counts.shape[1] // axiom.electorates])
    for case in axiom.cases(n):
        games = np.flatnonzero(case.premise(counts, rule))
        unique, wrong = case.check(rule, counts[games], axiom.electorates)
        applies[games] |= unique
        broken[games] |= wrong
    return applies, broken


def small_profiles(axiom: Axiom) -> Iterator[Ints]:
    """Batches ``(games, electorates * n!)``: all profiles with few voters, up to the names of the alternatives."""
    for n, most in zip(SMALL_SIZES, axiom.most_voters, strict=True):
        everything = list(range(math.factorial(n)))
        for voters in range(axiom.electorates, most + 1):
            if axiom.electorates == 2:
                for one in range(1, voters):
                    left, right = _multisets(n, everything, one, first=True), _multisets(n, everything, voters - one)
                    yield np.concatenate([np.repeat(left, len(right), 0), np.tile(right, (len(left), 1))], axis=1)
            elif axiom.domains is not None:
                for domain in axiom.domains(n):
                    yield _multisets(n, domain, voters)
            else:
                yield _multisets(n, everything, voters, first=True)


def _multisets(n: int, domain: list[int], voters: int, first: bool = False) -> Ints:
    """``(profiles, n!)``: every way for ``voters`` to hold orders from ``domain``; ``first``: one holds the first."""
    chosen = np.array(list(combinations_with_replacement(domain, voters - first)), dtype=np.int64)
    counts = np.zeros((len(chosen), math.factorial(n)), dtype=np.int64)
    counts[:, 0] = first
    np.add.at(counts, (np.arange(len(chosen))[:, None], chosen), 1)
    return counts


def random_profiles(axiom: Axiom, n: int, games: int, rng: np.random.Generator) -> Ints:
    """``(games, electorates * n!)``: an odd number of voters each, in few groups."""
    domains = [list(range(math.factorial(n)))] if axiom.domains is None else axiom.domains(n)
    parts = []
    for _ in range(axiom.electorates):
        counts = np.zeros((games, math.factorial(n)), dtype=np.int64)
        kind = rng.integers(len(domains), size=games)
        voters = 2 * rng.integers(1, MOST_PAIRS + 1, size=games) + 1
        for k, domain in enumerate(domains):
            rows = np.flatnonzero(kind == k)
            shares = rng.dirichlet(np.full(len(domain), SPARSITY), size=len(rows))
            counts[np.ix_(rows, np.array(domain))] = rng.multinomial(voters[rows], shares)
        parts.append(counts)
    return np.concatenate(parts, axis=1)


def _smallest(counts: Ints) -> list[Ints]:
    """The few profiles of a batch that are most promising to shrink, smallest first."""
    return sorted(counts, key=_size)[:SHRUNK]


def _size(counts: Ints) -> tuple[int, int, int]:
    """What makes a profile ``(electorates * n!,)`` large: alternatives (by their orders), voters, groups."""
    return len(counts), int(counts.sum()), int((counts > 0).sum())


def shrink(rule: str, axiom: str, counts: Ints) -> Ints:
    """Drop alternatives, voters and groups from one counterexample ``(electorates * n!,)`` while it stays one."""
    while True:
        for candidates in _smaller(counts, AXIOMS[axiom].electorates):
            _, broken = examine(RULES[rule], AXIOMS[axiom], candidates)
            if broken.any():
                counts = candidates[np.argmax(broken)]
                break
        else:
            return counts


def _smaller(counts: Ints, electorates: int) -> Iterator[Ints]:
    """Batches of profiles a little smaller than this one, to be tried in turn.

    One alternative, two voters or one voter fewer; two voters fewer and one who votes otherwise; one group fewer.
    """
    parts = counts.reshape(electorates, -1)
    n = size(parts)
    if n > 2:
        kept = [[i for i in range(n) if i != dropped] for dropped in range(n)]
        yield np.stack([restrict(parts, k).reshape(-1) for k in kept])
    held = np.flatnonzero(counts)
    units = np.eye(len(counts), dtype=np.int64)
    pairs = [units[i] + units[j] for i, j in combinations_with_replacement(held, 2)]
    triples = [pair + units[i] for pair in pairs for i in held]
    swaps = [triple - units[j] for triple in triples for j in range(len(counts))]
    moves = [units[i] * counts[i] - units[j] * counts[i] for i in held for j in held if i != j]
    for removed in (pairs, [units[i] for i in held], swaps, moves):
        candidates = counts - np.array(removed, dtype=np.int64).reshape(-1, len(counts))
        voters = candidates.reshape(len(candidates), electorates, -1).sum(-1)
        candidates = candidates[np.all(candidates >= 0, axis=1) & np.all(voters > 0, axis=1)]
        if len(candidates):
            yield candidates


def explain(rule: str, axiom: str, counts: Ints) -> Counterexample:
    """The first case that a counterexample ``(electorates * n!,)`` breaks, in words."""
    electorates, batch = AXIOMS[axiom].electorates, counts[None]
    parts = counts.reshape(electorates, -1)
    n = size(parts)
    profile = tuple(tuple((int(part[o]), ranking(orders(n)[o])) for o in np.flatnonzero(part)) for part in parts)
    for case in AXIOMS[axiom].cases(n):
        if case.premise(batch, RULES[rule])[0] and case.check(RULES[rule], batch, electorates)[1][0]:
            before = _probabilities(RULES[rule], parts[:1], range(n))
            after = (
                None if case.after is None else _probabilities(RULES[rule], case.after(batch), case.kept or range(n))
            )
            return Counterexample(profile, case.text, before, after)
    raise InvalidParameter(f"This profile does not break {axiom} for {rule}.")


def _probabilities(rule: Rule, counts: Ints, alternatives: Sequence[int]) -> dict[str, Fraction]:
    """Of one profile ``(1, k!)``, by the names of ``alternatives``; those that get nothing are left out."""
    weights = [int(w) for w in rule.answer(margins(counts)).weights[0]]
    named = zip(alternatives, weights, strict=True)
    return {NAMES[i]: Fraction(weight, sum(weights)) for i, weight in named if weight}


def _in_words(probabilities: dict[str, Fraction]) -> str:
    return ", ".join(name if q == 1 else f"{name} {q}" for name, q in probabilities.items())
