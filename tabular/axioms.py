"""Solution concepts and axioms of social choice on profiles of orders, in integers.

A profile of n alternatives is a vector of counts: how many voters hold each of the n! orders. The
concepts are those of temperature 0, with every pair equally weighted:

- RLHF is the Borda rule: the score equations sum_j p(i > j) - sum_j sigmoid(r_i - r_j) = l2 r_i give the
  Bradley-Terry rewards the order of sum_j p(i > j), at every l2 >= 0.
- NLHF is the maximal lottery, unique for an odd number of voters (Laffond, Laslier and Le Breton 1997).
- SLHF is the Leader's, the Simpson-Kramer rule.
- Copeland's rule is there for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from tabular import social_choice
from tabular.preferences import PreferenceMatrix

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NAMES = "ABCD"


@cache
def orders(n: int) -> tuple[tuple[int, ...], ...]:
    """The n! orders of n alternatives, best first; the first is 0, 1, ..."""
    return tuple(permutations(range(n)))


@cache
def _order_margins(n: int) -> NDArray[np.float64]:
    """``(n!, n * n)``: 1 where the order has i above j, -1 where below."""
    position = np.argsort(orders(n), axis=1)
    return np.sign(position[:, None, :] - position[:, :, None]).reshape(-1, n * n).astype(np.float64)


@cache
def _restriction(n: int, kept: tuple[int, ...]) -> NDArray[np.float64]:
    """``(n!, k!)``: 1 where an order of n alternatives, restricted to the k ``kept``, is an order of those."""
    index = {order: i for i, order in enumerate(orders(len(kept)))}
    matrix = np.zeros((math.factorial(n), len(index)))
    for row, order in enumerate(orders(n)):
        matrix[row, index[tuple(kept.index(i) for i in order if i in kept)]] = 1
    return matrix


def ranking(order: Sequence[int]) -> str:
    """Such as "A > B > C"."""
    return " > ".join(NAMES[i] for i in order)


def size(counts: Ints) -> int:
    """n, from counts ``(games, n!)``."""
    return next(n for n in range(1, 10) if math.factorial(n) == counts.shape[-1])


def margins(counts: Ints) -> Ints:
    """``(games, n, n)``: how many more voters have i above j than below; counts ``(games, n!)``."""
    n = size(counts)
    return np.rint(counts @ _order_margins(n)).astype(np.int64).reshape(-1, n, n)  # exact: small integers


def restrict(counts: Ints, kept: Iterable[int]) -> Ints:
    """``(games, k!)``: the profiles without the alternatives that are not ``kept``."""
    return np.rint(counts @ _restriction(size(counts), tuple(kept))).astype(np.int64)


# The concepts


@dataclass(frozen=True)
class Answer:
    """What a rule says about a batch of games.

    Attributes:
        margins: ``(games, n, n)``, see :func:`margins`.
        weights: ``(games, n)``, integers proportional to the probabilities.
        unique: ``(games,)``, True where the rule allows no other answer.
    """

    margins: Ints
    weights: Ints
    unique: Mask

    def same(self, other: Answer, mine: Sequence[int], others: Sequence[int]) -> Mask:
        """``(games,)``: my alternatives ``mine`` have the probabilities that ``others`` have there."""
        left = self.weights[:, mine] * other.weights.sum(-1, keepdims=True)
        return np.all(left == other.weights[:, others] * self.weights.sum(-1, keepdims=True), axis=-1)


@dataclass(frozen=True)
class Rule:
    """A solution concept on integer margins: the best score wins, or the maximal lottery where there is none."""

    title: str
    score: Callable[[Ints], Ints] | None

    def answer(self, m: Ints) -> Answer:
        """Its answer to the margins ``(games, n, n)``."""
        if self.score is None:
            off_diagonal = ~np.eye(m.shape[-1], dtype=bool)
            return Answer(m, lottery(m), np.all(m[:, off_diagonal] % 2 == 1, axis=-1))
        score = self.score(m)
        best = score == score.max(-1, keepdims=True)
        return Answer(m, best.astype(np.int64), best.sum(-1) == 1)

    def allows(self, m: Ints, weights: Ints) -> Mask:
        """``(games,)``: whether ``weights`` is an answer to ``m``, perhaps one of several."""
        if self.score is None:
            return np.all(np.einsum("gij,gj->gi", m, weights) <= 0, axis=-1)
        score = self.score(m)
        return np.all((weights == 0) | (score == score.max(-1, keepdims=True)), axis=-1)


def lottery(m: Ints) -> Ints:
    """``(games, n)``: weights of a maximal lottery for odd margins.

    Its support S is odd, and there A_SS w = 0: so w_i is, up to signs that alternate, the Pfaffian of A on
    S without i (Kaplansky 1995). Each S is tried.
    """
    games, n, _ = m.shape
    weights = np.zeros((games, n), dtype=np.int64)
    for count in range(1, n + 1, 2):
        for support in map(list, combinations(range(n), count)):
            trial = np.zeros_like(weights)
            for place, i in enumerate(support):
                rest = [j for j in support if j != i]
                trial[:, i] = (-1) ** place * _pfaffian(m[:, rest][:, :, rest])
            trial *= np.sign(trial[:, support[:1]])
            fits = np.all(trial[:, support] > 0, axis=-1) & np.all(np.einsum("gij,gj->gi", m, trial) <= 0, axis=-1)
            weights = np.where((fits & ~weights.any(-1))[:, None], trial, weights)
    return weights


def _pfaffian(a: Ints) -> Ints:
    """``(games,)``: of antisymmetric ``a`` ``(games, 2k, 2k)``, expanded along its first row."""
    total = np.full(len(a), int(a.shape[-1] == 0), dtype=np.int64)
    for j in range(1, a.shape[-1]):
        rest = [i for i in range(1, a.shape[-1]) if i != j]
        total += (-1) ** (j - 1) * a[:, 0, j] * _pfaffian(a[:, rest][:, :, rest])
    return total


def _worst_duel(m: Ints) -> Ints:
    return np.where(np.eye(m.shape[-1], dtype=bool), np.iinfo(np.int64).max, m).min(-1)


RULES = {
    "rlhf": Rule("RLHF (Borda)", lambda m: m.sum(-1)),
    "nlhf": Rule("NLHF (maximal lottery)", None),
    "slhf": Rule("SLHF Leader (Simpson)", _worst_duel),
    "copeland": Rule("Copeland", lambda m: np.sign(m).sum(-1)),
}


# The axioms


@dataclass(frozen=True)
class Case:
    """One way to break an axiom: functions of a batch of profiles, counts ``(games, electorates * n!)``.

    Attributes:
        text: the premise in words.
        premise: ``(games,)``, whether the axiom speaks about the profile.
        wrong: ``(games,)``, whether the rule's answers before and after break it.
        after: the changed profiles ``(games, k!)``, or None where the axiom changes nothing.
        kept: the alternatives that are left after, None for all.
        unique_after: whether profiles count only if the answer after is unique too.
    """

    text: str
    premise: Callable[[Ints, Rule], Mask]
    wrong: Callable[[Rule, Answer, Answer], Mask]
    after: Callable[[Ints], Ints] | None = None
    kept: Sequence[int] | None = None
    unique_after: bool = True

    def check(self, rule: Rule, counts: Ints, electorates: int) -> tuple[Mask, Mask]:
        """``(games,)`` twice, where the premise holds: unique answers, and unique answers that are wrong."""
        before = rule.answer(margins(counts[:, : counts.shape[1] // electorates]))
        after = before if self.after is None else rule.answer(margins(self.after(counts)))
        unique = before.unique & (after.unique | (not self.unique_after))
        return unique, unique & self.wrong(rule, before, after)


@dataclass(frozen=True)
class Axiom:
    """A property of solution concepts.

    Attributes:
        title: its name.
        definition: what it asks for.
        cases: every :class:`Case` for n alternatives.
        most_voters: up to how many voters all profiles of each number of alternatives are searched.
        electorates: 2 for an axiom about pairs of profiles.
        domains: sets of orders that voters may hold, for n alternatives; None is one set, all orders.
    """

    title: str
    definition: str
    cases: Callable[[int], list[Case]]
    most_voters: tuple[int, ...] = (9, 5)
    electorates: int = 1
    domains: Callable[[int], list[list[int]]] | None = None


def _shares(counts: Ints) -> PreferenceMatrix:
    voters = counts.sum(-1)[:, None, None]
    return PreferenceMatrix.from_margins(margins(counts) / (2 * voters))


def _about_one(mask: Callable[[Ints], Mask], text: str, *, must_win: bool) -> Callable[[int], list[Case]]:
    """Each alternative in ``mask(counts)`` must get everything, or nothing."""

    def case(x: int) -> Case:
        def wrong(rule: Rule, before: Answer, _: Answer) -> Mask:
            mine = before.weights[:, x]
            return mine < before.weights.sum(-1) if must_win else mine > 0

        return Case(text.format(NAMES[x]), lambda counts, _: mask(counts)[:, x], wrong)

    return lambda n: [case(x) for x in range(n)]


def _majority(counts: Ints) -> Mask:
    first = np.array([order[0] for order in orders(size(counts))])
    tops = np.stack([counts[:, first == x].sum(-1) for x in range(size(counts))], axis=-1)
    return 2 * tops > counts.sum(-1, keepdims=True)


def _dominated(counts: Ints) -> Mask:
    return np.any(margins(counts) == counts.sum(-1)[:, None, None], axis=-2)


def _any_profile(counts: Ints, _: Rule) -> Mask:
    return np.ones(len(counts), dtype=bool)


def _determinism(n: int) -> list[Case]:
    def wrong(rule: Rule, before: Answer, _: Answer) -> Mask:
        return (before.weights > 0).sum(-1) > 1

    return [Case("The answer is unique, but no alternative gets everything", _any_profile, wrong)]


def _monotonicity(n: int) -> list[Case]:
    def case(old: int, place: int) -> Case:
        order = orders(n)[old]
        raised, passed = order[place], order[place - 1]
        new = orders(n).index((*order[: place - 1], raised, passed, *order[place + 1 :]))

        def after(counts: Ints) -> Ints:
            changed = counts.copy()
            changed[:, old] -= 1
            changed[:, new] += 1
            return changed

        def wrong(rule: Rule, before: Answer, later: Answer) -> Mask:
            old_share = before.weights[:, raised] * later.weights.sum(-1)
            return later.weights[:, raised] * before.weights.sum(-1) < old_share

        text = f"One voter changes from {ranking(order)} to {ranking(orders(n)[new])}, which raises {NAMES[raised]}"
        return Case(text, lambda counts, _: counts[:, old] > 0, wrong, after)

    return [case(old, place) for old in range(math.factorial(n)) for place in range(1, n)]


def _iia(n: int) -> list[Case]:
    def case(dropped: int) -> Case:
        kept = [i for i in range(n) if i != dropped]

        def wrong(rule: Rule, before: Answer, later: Answer) -> Mask:
            return (before.weights[:, dropped] == 0) & ~before.same(later, kept, range(n - 1))

        text = f"{NAMES[dropped]}, which gets nothing, is dropped"
        return Case(text, _any_profile, wrong, lambda counts: restrict(counts, kept), kept)

    return [case(dropped) for dropped in range(n)]


def _together(n: int, clones: Sequence[int]) -> Mask:
    """``(n!,)``: True for the orders that rank ``clones`` next to each other."""
    places = np.sort(np.argsort(orders(n), axis=1)[:, clones], axis=1)
    return places[:, -1] - places[:, 0] == len(clones) - 1


def _clone_domains(n: int) -> list[list[int]]:
    return [[int(i) for i in np.flatnonzero(_together(n, range(count)))] for count in range(2, n)]


def _clones(n: int) -> list[Case]:
    def case(clones: tuple[int, ...], kept_clone: int) -> Case:
        others = [i for i in range(n) if i not in clones]
        kept = sorted([*others, kept_clone])
        apart = ~_together(n, clones)

        def wrong(rule: Rule, before: Answer, later: Answer) -> Mask:
            return ~before.same(later, others, [kept.index(i) for i in others])

        text = f"{', '.join(NAMES[i] for i in clones)} are clones; only {NAMES[kept_clone]} stays"

        def premise(counts: Ints, _: Rule) -> Mask:
            return counts[:, apart].sum(-1) == 0

        return Case(text, premise, wrong, lambda counts: restrict(counts, kept), kept)

    sets = [tuple(range(count)) for count in range(2, n)]  # which ones they are does not matter, by neutrality
    return [case(clones, kept_clone) for clones in sets for kept_clone in clones]


def _reinforcement(n: int) -> list[Case]:
    half = math.factorial(n)

    def premise(counts: Ints, rule: Rule) -> Mask:
        one, two = rule.answer(margins(counts[:, :half])), rule.answer(margins(counts[:, half:]))
        return one.unique & two.unique & one.same(two, range(n), range(n))

    def wrong(rule: Rule, before: Answer, union: Answer) -> Mask:
        return ~rule.allows(union.margins, before.weights)

    text = "Both electorates have the same answer, and are united"
    return [Case(text, premise, wrong, lambda counts: counts[:, :half] + counts[:, half:], unique_after=False)]


AXIOMS = {
    "condorcet-winner": Axiom(
        "Condorcet winner",
        "who beats every other gets everything",
        _about_one(lambda c: social_choice.condorcet_winner(_shares(c)), "{} beats every other", must_win=True),
    ),
    "condorcet-loser": Axiom(
        "Condorcet loser",
        "who loses to every other gets nothing",
        _about_one(lambda c: social_choice.condorcet_loser(_shares(c)), "{} loses to every other", must_win=False),
    ),
    "smith": Axiom(
        "Smith",
        "outside the smallest set that beats all others, nobody gets anything",
        _about_one(lambda c: ~social_choice.smith_set(_shares(c)), "{} is outside the Smith set", must_win=False),
    ),
    "majority": Axiom(
        "majority",
        "who is first for more than half of the voters gets everything",
        _about_one(_majority, "More than half of the voters rank {} first", must_win=True),
    ),
    "pareto": Axiom(
        "Pareto",
        "who is below the same other for all voters gets nothing",
        _about_one(_dominated, "All voters agree on one better than {}", must_win=False),
    ),
    "monotonicity": Axiom("monotonicity", "who is raised by one place in one ballot does not get less", _monotonicity),
    "clones": Axiom(
        "independence of clones",
        "of alternatives adjacent in all ballots all but one can go: the others get the same",
        _clones,
        (9, 9),
        domains=_clone_domains,
    ),
    "iia": Axiom("IIA", "who gets nothing can be dropped, and the answer stays (contraction, Nash 1950)", _iia),
    "reinforcement": Axiom(
        "reinforcement",
        "what two electorates both answer is an answer of their union",
        _reinforcement,
        (10, 4),
        electorates=2,
    ),
    "determinism": Axiom("determinism", "a unique answer is one alternative", _determinism),
}
