"""The audit finds what is known, finds nothing where a theorem forbids it, and its counterexamples are true.

Counterexamples are checked again here from their printed form, by the exact solvers and by counting votes,
with none of the audit's own code.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from slhf.errors import InvalidParameter
from tabular import PreferenceMatrix, audit, axioms, solve_nlhf, solve_rlhf, solve_slhf
from tabular.__main__ import main
from tests.tabular.strategies import smith_set

BROKEN = {
    ("rlhf", "condorcet-winner"): (3, 5),
    ("rlhf", "smith"): (3, 5),
    ("rlhf", "majority"): (3, 5),
    ("rlhf", "clones"): (3, 5),
    ("rlhf", "iia"): (3, 5),
    ("nlhf", "monotonicity"): (3, 5),
    ("nlhf", "determinism"): (3, 3),
    ("slhf", "condorcet-loser"): (4, 9),
    ("slhf", "smith"): (4, 9),
    ("slhf", "clones"): (4, 9),
    ("slhf", "iia"): (3, 7),
    ("slhf", "reinforcement"): (3, 15),
    ("copeland", "iia"): (4, 4),
}
"""The failures known from theory, and the most alternatives and voters that showing them should take.

The smallest there are: exhausted once for (4, 9) up to 8 voters, for (3, 15) up to 14 in both electorates.
"""

KEPT = {
    "rlhf": {"condorcet-loser", "pareto", "monotonicity", "reinforcement", "determinism"},
    "nlhf": {"condorcet-winner", "condorcet-loser", "smith", "majority", "pareto", "clones", "iia", "reinforcement"},
    "slhf": {"condorcet-winner", "majority", "pareto", "monotonicity", "determinism"},
    "copeland": {
        "condorcet-winner", "condorcet-loser", "smith", "majority", "pareto", "monotonicity", "determinism",
    },
}  # fmt: skip
"""What theorems promise (maximal lotteries: Fishburn 1984, Brandl, Brandt and Seedig 2016)."""


@cache
def verdict(rule, axiom):
    return audit.audit(rule, axiom, 20_000 if (rule, axiom) in BROKEN else 2000)


@pytest.mark.parametrize("pair", BROKEN, ids="-".join)
def test_known_failures_are_found_small(pair):
    found = verdict(*pair).counterexample
    assert found is not None
    most_alternatives, most_voters = BROKEN[pair]
    assert found.alternatives <= most_alternatives
    assert found.voters <= most_voters


@pytest.mark.parametrize(("rule", "axiom"), [(rule, axiom) for rule in KEPT for axiom in sorted(KEPT[rule])])
def test_nothing_is_found_against_a_theorem(rule, axiom):
    held = verdict(rule, axiom)
    assert held.counterexample is None, str(held.counterexample)
    assert 1000 < held.applied <= held.searched


# The independent check: a profile is a list of rankings, one for each voter.


def voters(electorate):
    return [tuple(ranking.split(" > ")) for count, ranking in electorate for _ in range(count)]


def duel(profile, a, b):
    """How many more voters rank a above b than b above a."""
    return sum(1 if r.index(a) < r.index(b) else -1 for r in profile)


def solve(rule, profile):
    """The probabilities by the public solvers (Copeland by counting), and whether the answer is unique."""
    names = sorted(profile[0])
    if len(names) == 1:
        return {names[0]: Fraction(1)}, True
    P = PreferenceMatrix.from_rankings(profile)
    if rule == "nlhf":
        policy = solve_nlhf(P, selection="exact").rational
        answer = {name: q for name, q in zip(names, policy, strict=True) if q}
        return answer, all(duel(profile, a, b) % 2 for a in names for b in names if a != b)
    if rule == "copeland":
        points = {a: sum(np.sign(duel(profile, a, b)) for b in names if b != a) for a in names}
        best = [a for a in names if points[a] == max(points.values())]
    else:
        solution = solve_rlhf(P, tau=0, l2=1e-3) if rule == "rlhf" else solve_slhf(P, 0, 0)
        best = [a for a, inside in zip(names, solution.support, strict=True) if inside]
    return {a: Fraction(1, len(best)) for a in best}, len(best) == 1


def without(profile, dropped):
    return [tuple(a for a in ranking if a not in dropped) for ranking in profile]


def adjacent_raises(profile, text):
    """The profiles after one voter moves one alternative up by one place."""
    for i, ranking in enumerate(profile):
        for place in range(1, len(ranking)):
            raised = (*ranking[: place - 1], ranking[place], ranking[place - 1], *ranking[place + 1 :])
            if f"from {' > '.join(ranking)} to {' > '.join(raised)}, which raises {ranking[place]}" in text:
                return ranking[place], [*profile[:i], raised, *profile[i + 1 :]]
    raise AssertionError(text)


def is_broken(rule, axiom, found):
    """Whether this counterexample, read as people would, breaks the axiom."""
    profile = voters(found.electorates[0])
    names = sorted(profile[0])
    answer, unique = solve(rule, profile)
    assert unique
    assert answer == found.before

    def beats(a):
        return [b for b in names if b != a and duel(profile, a, b) > 0]

    def loses(a):
        return [b for b in names if b != a and duel(profile, a, b) < 0]

    if axiom == "condorcet-winner":
        return any(len(beats(a)) == len(names) - 1 and answer.get(a, 0) < 1 for a in names)
    if axiom == "condorcet-loser":
        return any(len(loses(a)) == len(names) - 1 for a in answer)
    if axiom == "smith":
        return not {names.index(a) for a in answer} <= smith_set(PreferenceMatrix.from_rankings(profile).p)
    if axiom == "majority":
        return any(2 * sum(r[0] == a for r in profile) > len(profile) and answer.get(a, 0) < 1 for a in names)
    if axiom == "determinism":
        return len(answer) > 1
    if axiom == "reinforcement":
        other = voters(found.electorates[1])
        assert solve(rule, other) == (answer, True)
        return not set(answer) <= set(solve(rule, profile + other)[0])  # for rules that score
    if axiom == "monotonicity":
        raised, changed = adjacent_raises(profile, found.text)
        later, unique = solve(rule, changed)
        assert (later, unique) == (found.after, True)
        return later.get(raised, 0) < answer.get(raised, 0)
    if axiom == "iia":
        dropped = {found.text[0]}
        assert not dropped & set(answer)
        later, unique = solve(rule, without(profile, dropped))
        assert (later, unique) == (found.after, True)
        return later != answer
    clones, kept = found.text.split(" are clones; only ")[0].split(", "), found.text.split(" stays")[0][-1]
    for ranking in profile:
        places = sorted(ranking.index(a) for a in clones)
        assert places[-1] - places[0] == len(clones) - 1
    later, unique = solve(rule, without(profile, set(clones) - {kept}))
    assert (later, unique) == (found.after, True)
    return any(answer.get(a, 0) != later.get(a, 0) for a in set(names) - set(clones))


@pytest.mark.parametrize("rule", axioms.RULES)
def test_every_counterexample_is_one(rule):
    found = {axiom: verdict(rule, axiom).counterexample for axiom in axioms.AXIOMS}
    assert {axiom for axiom in found if found[axiom]}
    for axiom in found:
        if found[axiom]:
            assert is_broken(rule, axiom, found[axiom]), f"{axiom}\n{found[axiom]}"


def test_the_check_can_refuse():
    true = verdict("rlhf", "condorcet-winner").counterexample
    assert not is_broken("rlhf", "determinism", true)
    agreed = audit.Counterexample((((3, "A > B > C"),),), "", {"A": Fraction(1)}, None)
    for axiom in ("condorcet-winner", "condorcet-loser", "smith", "majority"):
        assert not is_broken("rlhf", axiom, agreed)


def random_counts(n, games=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multinomial(2 * rng.integers(0, 6, games) + 1, np.full(len(axioms.orders(n)), 1 / len(axioms.orders(n))))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", axioms.RULES)
def test_the_rules_are_the_solvers(rule, n):
    """On random electorates; n = 4 needs lotteries of one and of three."""
    for counts in random_counts(n):
        pairs = zip(counts, axioms.orders(n), strict=True)
        profile = [tuple("ABCD"[i] for i in order) for count, order in pairs for _ in range(count)]
        m = axioms.margins(counts[None])
        assert m[0].tolist() == [[duel(profile, a, b) if a != b else 0 for b in "ABCD"[:n]] for a in "ABCD"[:n]]
        answer = axioms.RULES[rule].answer(m)
        weights = answer.weights[0]
        found = {"ABCD"[i]: Fraction(int(w), int(weights.sum())) for i, w in enumerate(weights) if w}
        assert (found, answer.unique[0]) == solve(rule, profile)
        assert axioms.RULES[rule].allows(m, answer.weights)[0]


def test_lotteries_of_five_are_proved():
    rng = np.random.default_rng(3)
    upper = np.triu(2 * rng.integers(-6, 6, size=(300, 5, 5)) + 1, 1)
    m = upper - np.swapaxes(upper, 1, 2)
    weights = axioms.lottery(m)
    assert np.all(np.einsum("gij,gj->gi", m, weights) <= 0)
    assert np.all((weights >= 0) & (weights.sum(1, keepdims=True) > 0))
    assert {1, 3, 5} == set((weights > 0).sum(1).tolist())


def test_small_profiles_are_all_of_them_up_to_names():
    """Every electorate of three on three alternatives is a renaming of one that is searched."""
    batches = list(audit.small_profiles(axioms.AXIOMS["smith"]))
    searched = {tuple(int(c) for c in counts) for counts in batches[2]}
    assert {sum(counts) for counts in searched} == {3}
    assert len(searched) == len(batches[2]) == 21
    orders = axioms.orders(3)
    for held in np.ndindex(6, 6, 6):
        names = [
            tuple(sum(tuple(name[i] for i in orders[k]) == order for k in held) for order in orders)
            for name in permutations(range(3))
        ]
        assert searched & set(names)


def test_restriction_forgets_alternatives():
    counts = random_counts(4)
    assert_array_equal(
        axioms.margins(axioms.restrict(counts, [0, 2, 3])), axioms.margins(counts)[:, [0, 2, 3]][:, :, [0, 2, 3]]
    )


def test_shrinking_keeps_what_it_shrinks():
    pair = ("slhf", "condorcet-loser")
    large = audit.random_profiles(axioms.AXIOMS[pair[1]], 4, 10_000, np.random.default_rng(1))
    _, broken = audit.examine(axioms.RULES[pair[0]], axioms.AXIOMS[pair[1]], large)
    assert broken.any()
    for counts in large[broken][:3]:
        small = audit.shrink(*pair, counts)
        assert small.sum() < counts.sum()
        assert is_broken(*pair, audit.explain(*pair, small))


def profile_counts(electorate):
    """Counts ``(n!,)`` of (count, "ABC") pairs."""
    n = len(electorate[0][1])
    counts = np.zeros(len(axioms.orders(n)), dtype=np.int64)
    for count, ranking in electorate:
        counts[axioms.orders(n).index(tuple("ABCDE".index(a) for a in ranking))] += count
    return counts


def test_the_leader_that_loses_every_duel():
    """MATH section 3: a third on each rotation of ABC, D first for 49 % and last otherwise."""
    shares = [(49, "DABC"), (49, "DBCA"), (49, "DCAB"), (51, "ABCD"), (51, "BCAD"), (51, "CABD")]
    counts = profile_counts(shares)
    _, broken = audit.examine(axioms.RULES["slhf"], axioms.AXIOMS["condorcet-loser"], counts[None])
    assert broken[0]
    found = audit.explain("slhf", "condorcet-loser", counts)
    assert found.text == "D loses to every other"
    assert found.before == {"D": 1}
    small = audit.explain("slhf", "condorcet-loser", audit.shrink("slhf", "condorcet-loser", counts))
    assert is_broken("slhf", "condorcet-loser", small)
    assert (small.alternatives, small.voters) <= (4, 9)
    for rule in ("rlhf", "nlhf", "copeland"):
        assert not audit.examine(axioms.RULES[rule], axioms.AXIOMS["condorcet-loser"], counts[None])[1].any()


def test_copeland_is_not_independent_of_clones_with_five_alternatives():
    """Which the audit, of at most four, says it cannot show."""
    profile = voters([(2, "A > B > C > D > E"), (1, "C > D > E > A > B"), (1, "B > C > D > E > A")])
    assert solve("copeland", profile) == ({"B": 1}, True)
    assert solve("copeland", without(profile, {"D", "E"})) == ({"A": 1}, True)


def test_smallest_is_said_of_what_all_profiles_were_searched_for():
    small, large = verdict("rlhf", "smith"), verdict("slhf", "condorcet-loser")
    assert small.smallest
    assert small.summary == "fails: 3 alternatives, 5 voters"
    assert not large.smallest
    assert large.summary == f"fails: 4 alternatives, {large.counterexample.voters} voters or fewer"
    assert verdict("nlhf", "smith").summary.startswith("none in ")


@pytest.mark.parametrize(("rule", "axiom"), [("rlhf", "smith"), ("nlhf", "monotonicity"), ("slhf", "iia")])
def test_no_smaller_profile_breaks_the_axiom(rule, axiom):
    """One alternative or one voter fewer: every profile, named as it may be."""
    most = verdict(rule, axiom).counterexample.voters
    for held in range(1, most):
        counts = audit._multisets(3, list(range(6)), held)
        assert not audit.examine(axioms.RULES[rule], axioms.AXIOMS[axiom], counts)[1].any()
    for held in range(1, 10):
        counts = audit._multisets(2, [0, 1], held)
        assert not audit.examine(axioms.RULES[rule], axioms.AXIOMS[axiom], counts)[1].any()


def test_random_profiles_are_seeded_and_odd():
    for axiom in axioms.AXIOMS.values():
        one, two = (audit.random_profiles(axiom, 4, 50, np.random.default_rng(s)) for s in (0, 0))
        assert_array_equal(one, two)
        assert np.all(one.reshape(50, axiom.electorates, 24).sum(-1) % 2 == 1)


def test_what_is_not_broken_cannot_be_explained():
    with pytest.raises(InvalidParameter, match="does not break smith"):
        audit.explain("slhf", "smith", random_counts(3)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("dpo", "smith"), "'dpo' is unknown"), (("slhf", "x"), "'x' is unknown"), (("slhf", "smith", -1), "games = -1")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidParameter, match=message):
        audit.audit(*arguments)


def test_command_line(capsys):
    options = ["audit", "--concept", "rlhf", "--concept", "nlhf", "--axiom", "iia", "--games", "10"]
    assert main(options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "RLHF (Borda) fails IIA:\n  3: A > B > C\n  2: B > C > A\n" in captured.out
    assert "C, which gets nothing, is dropped: the answer is B, then A." in captured.out
    assert "none in " in captured.out
    assert main([*options, "--json"]) == 0
    rlhf, nlhf = json.loads(capsys.readouterr().out)
    assert rlhf["counterexample"]["electorates"][0][0] == {"count": 3, "ranking": ["A", "B", "C"]}
    assert rlhf["counterexample"]["after"] == {"A": "1"}
    assert nlhf["counterexample"] is None
    assert nlhf["searched"] >= nlhf["applied"] > 1000
