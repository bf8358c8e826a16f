"""Against pref_voting: winners, sets and scores as sets, maximal lotteries by what makes them one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pref_voting.c1_methods import condorcet, copeland, top_cycle
from pref_voting.margin_based_methods import minimax
from pref_voting.probabilistic_methods import maximal_lottery
from pref_voting.profiles import Profile

from tabular import PreferenceMatrix, solve_nlhf, solve_slhf
from tabular import social_choice as sc

PROFILES = 300


def random_profiles():
    """``PROFILES`` of 2 to 7 alternatives and 1 to 15 voters, as (their Profile, our matrix, number of voters).

    Odd and even; half of them from few rankings, which makes majorities, ties and cycles.
    """
    rng = np.random.default_rng(33)
    for k in range(PROFILES):
        n, voters = int(rng.integers(2, 8)), int(rng.integers(1, 16))
        pool = [tuple(int(i) for i in rng.permutation(n)) for _ in range(3 if k % 2 else voters)]
        rankings = [pool[i] for i in rng.integers(len(pool), size=voters)]
        yield Profile(rankings), PreferenceMatrix.from_rankings(rankings), voters


@pytest.fixture(scope="module")
def profiles():
    return list(random_profiles())


def members(mask):
    return [int(i) for i in np.flatnonzero(mask)]


def borda(profile):
    """The best of pref_voting's scores; its own method spends ten seconds on compiling."""
    scores = profile.borda_scores()
    return [a for a in scores if scores[a] == max(scores.values())]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (minimax, sc.simpson_set),
        (minimax, lambda P: solve_slhf(P, 0, 0).support),
        (borda, sc.borda_winners),
        (copeland, sc.copeland_winners),
        (top_cycle, sc.smith_set),
    ],
    ids=["Simpson", "Leader at temperature 0", "Borda", "Copeland", "Smith"],
)
def test_sets_are_pref_votings(profiles, theirs, ours):
    several = 0
    for profile, P, _ in profiles:
        expected = sorted(theirs(profile))
        assert members(ours(P)) == expected, profile.rankings
        several += len(expected) > 1
    assert several > 10  # ties were among them


def test_condorcet_winners_are_pref_votings(profiles):
    found = 0
    for profile, P, _ in profiles:
        winner = members(sc.condorcet_winner(P))
        found += bool(winner)
        assert sorted(condorcet(profile)) == (winner or list(range(P.n)))
    assert PROFILES / 4 < found < PROFILES - 20


def test_scores_are_pref_votings(profiles):
    for profile, P, voters in profiles:
        margins = [[profile.margin(a, b) for b in range(P.n)] for a in range(P.n)]
        assert_allclose(2 * voters * P.margins, margins, atol=1e-12)
        copelands = profile.copeland_scores(scores=(1, 0, -1))
        assert sc.copeland_score(P).tolist() == [copelands[a] for a in range(P.n)]
        bordas = profile.borda_scores()
        assert_allclose(sc.borda_score(P) * voters * (P.n - 1), [bordas[a] for a in range(P.n)])


def test_maximal_lotteries_are_pref_votings(profiles):
    """By value where the margins are odd, and the lottery therefore unique; else both lose to nobody.

    With max_entropy ours has the largest support of all: any other's lies within it.
    """
    unique = 0
    for profile, P, voters in profiles:
        found = maximal_lottery(profile)
        theirs = np.array([found.get(a, 0) for a in range(P.n)], dtype=float)
        ours, widest = solve_nlhf(P).policy, solve_nlhf(P, selection="max_entropy").policy
        for lottery in (theirs, ours, widest):
            assert lottery.sum() == pytest.approx(1)
            assert np.max(P.margins @ lottery) < 1e-8
        assert np.all((widest > 1e-9) | (theirs < 1e-6))
        if voters % 2:
            unique += 1
            assert_allclose(ours, theirs, atol=1e-6)
            assert_allclose(widest, ours, atol=1e-6)
    assert PROFILES / 4 < unique < PROFILES
