"""social_choice against brute force on hundreds of random profiles, and on games made for each notion."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidParameter
from tabular import PreferenceMatrix, generators, solve_nlhf, solve_slhf
from tabular import social_choice as sc
from tests.tabular.strategies import CONDORCET, examples, games, smith_set, subsets

pytestmark = pytest.mark.numeric

PROFILES = 300


def random_profiles():
    """(rankings, margins in voters) of small electorates, odd and even."""
    rng = np.random.default_rng(20)
    for _ in range(PROFILES):
        n, voters = rng.integers(2, 6), rng.integers(1, 9)
        rankings = [tuple(int(i) for i in rng.permutation(n)) for _ in range(voters)]
        yield rankings, votes(rankings, n)


def votes(rankings, n):
    """How many more voters rank i above j than j above i, counted ranking by ranking."""
    margin = [[0] * n for _ in range(n)]
    for ranking in rankings:
        for i in range(n):
            for j in range(n):
                margin[i][j] += (ranking.index(i) < ranking.index(j)) - (ranking.index(i) > ranking.index(j))
    return margin


def members(mask):
    return {int(i) for i in np.flatnonzero(mask)}


def best(scores):
    return {i for i, score in enumerate(scores) if score == max(scores)}


def schwartz(margin):
    """The union of the undominated sets that contain no smaller one."""
    n = len(margin)
    undominated = [s for s in subsets(n) if all(margin[j][i] <= 0 for i in s for j in set(range(n)) - s)]
    return set().union(*(s for s in undominated if not any(t < s for t in undominated)))


def test_winners_and_sets_are_brute_forces():
    for rankings, margin in random_profiles():
        n = len(margin)
        P = PreferenceMatrix.from_rankings(rankings)
        positions = [sum(n - 1 - r.index(i) for r in rankings) for i in range(n)]
        worst = [min(margin[i][j] for j in range(n) if j != i) for i in range(n)]
        duels = [sum(np.sign(margin[i])) for i in range(n)]
        strict = [all(margin[i][j] > 0 for j in range(n) if j != i) for i in range(n)]
        assert members(sc.borda_winners(P)) == best(positions)
        assert_allclose(sc.borda_score(P), np.array(positions) / (len(rankings) * (n - 1)))
        assert members(sc.simpson_set(P)) == best(worst)
        assert_allclose(2 * sc.simpson_score(P) - 1, np.array(worst) / len(rankings), atol=1e-15)
        assert sc.copeland_score(P).tolist() == duels
        assert members(sc.copeland_winners(P)) == best(duels)
        assert sc.condorcet_winner(P).tolist() == strict
        assert sc.weak_condorcet_winner(P).tolist() == [w >= 0 for w in worst]
        assert sc.condorcet_loser(P).tolist() == [
            all(m < 0 for j, m in enumerate(margin[i]) if j != i) for i in range(n)
        ]
        assert members(sc.smith_set(P)) == smith_set(P.p)
        assert members(sc.schwartz_set(P)) == schwartz(margin)


def test_the_solvers_choose_from_these_sets():
    for rankings, _ in random_profiles():
        P = PreferenceMatrix.from_rankings(rankings)
        assert_array_equal(solve_slhf(P, 0, 0).support, sc.simpson_set(P))


def test_a_lottery_loses_to_nobody_in_votes_and_stays_in_the_smith_set():
    for rankings, margin in random_profiles():
        P = PreferenceMatrix.from_rankings(rankings)
        lottery = solve_nlhf(P).policy
        assert np.all(np.array(margin) @ lottery <= 1e-8)
        assert members(lottery > 0) <= members(sc.smith_set(P))


@examples()
@given(P=games())
def test_batches_are_loops(P):
    functions = (
        sc.condorcet_winner, sc.weak_condorcet_winner, sc.condorcet_loser, sc.smith_set, sc.schwartz_set,
        sc.copeland_score, sc.borda_score, sc.simpson_score, sc.three_cycles, sc.shortest_cycle, sc.cycle_counts,
        lambda P: sc.transitivity(P).strong, lambda P: sc.fit_log_odds(P).residual,
    )  # fmt: skip
    for function in functions:
        whole = function(P)
        for index in np.ndindex(P.batch_shape):
            one = function(PreferenceMatrix(P.p[index]))
            assert_allclose(whole[index], one, rtol=1e-12, atol=1e-12 * (np.asarray(one).dtype.kind == "f"))


@examples()
@given(P=games())
def test_schwartz_in_smith_and_winners_in_both(P):
    smith, schwartz = sc.smith_set(P), sc.schwartz_set(P)
    assert np.all(schwartz <= smith)
    assert np.all(schwartz.any(-1))
    winner = sc.condorcet_winner(P)
    assert np.all(winner <= sc.weak_condorcet_winner(P))
    assert np.all(~winner.any(-1, keepdims=True) | (smith == winner))
    assert np.all(~(sc.condorcet_loser(P) & smith))  # two or more alternatives
    no_ties = (sc.majority(P) | np.swapaxes(sc.majority(P), -1, -2) | np.eye(P.n, dtype=bool)).all((-2, -1))
    assert np.all(~no_ties[..., None] | (smith == schwartz))


def list_cycles(beats):
    """All simple cycles, by trying all arrangements; each is a list of edges."""
    for length in range(3, len(beats) + 1):
        for path in permutations(range(len(beats)), length):
            edges = list(zip(path, path[1:] + path[:1], strict=True))
            if path[0] == min(path) and all(beats[edge] for edge in edges):
                yield edges


def simple_cycles(beats):
    """How many simple cycles of each length."""
    counts = [0] * (len(beats) + 1)
    for edges in list_cycles(beats):
        counts[len(edges)] += 1
    return counts


@examples(60)
@given(P=games(sizes=(2, 6), batches=((),)))
def test_cycles(P):
    expected = simple_cycles(sc.majority(P))
    assert sc.cycle_counts(P).tolist() == expected
    on_cycles = {edge for cycle in list_cycles(sc.majority(P)) for edge in cycle}
    assert {tuple(map(int, edge)) for edge in np.argwhere(sc.cycle_edges(P))} == on_cycles
    assert sc.three_cycles(P) == (expected[3] if P.n > 2 else 0)
    assert sc.shortest_cycle(P) == next((k for k, count in enumerate(expected) if count), 0)


def test_long_cycles_and_the_limit_of_counting():
    n = 16
    m = np.zeros((n, n))
    m[np.arange(n), np.arange(1, n + 1) % n] = 0.1
    ring = PreferenceMatrix.from_margins(m - m.T)
    assert sc.shortest_cycle(ring) == n
    assert sc.three_cycles(ring) == 0
    assert sc.cycle_counts(ring).tolist() == [0] * n + [1]
    with pytest.raises(InvalidParameter, match=r"17 alternatives .* limit is 16"):
        sc.cycle_counts(generators.uniform(np.random.default_rng(0), 17))


def test_one_alternative():
    P = PreferenceMatrix([[0.5]])
    assert sc.borda_score(P) == sc.simpson_score(P) == 0.5
    assert sc.smith_set(P).all()
    assert sc.transitivity(P).strong == 1
    assert sc.cycle_counts(P).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("p_ac", "expected"),
    [(0.4, (0, 0, 0)), (0.5, (1 / 3, 0, 0)), (0.6, (1, 0, 0)), (0.65, (1, 1, 0)), (0.7, (1, 1, 1))],
)
def test_transitivity_in_degrees(p_ac, expected):
    """A over B .7, B over C .65: what A over C must be."""
    P = PreferenceMatrix([[0.5, 0.7, p_ac], [0.3, 0.5, 0.65], [1 - p_ac, 0.35, 0.5]])
    t = sc.transitivity(P)
    assert_allclose((t.weak, t.moderate, t.strong), expected)


def test_a_reward_represents_bradley_terry_and_nothing_else():
    reward = np.array([[0.3, -1.2, 0.9], [0, 0, 0]])
    fit = sc.fit_log_odds(PreferenceMatrix.bradley_terry(reward))
    assert_allclose(fit.reward, reward - reward.mean(-1, keepdims=True), atol=1e-12)
    assert np.all(fit.residual < 1e-12)
    assert np.all(fit.cyclic_share < 1e-12)
    cycle = PreferenceMatrix.bradley_terry([0.0, 0.0, 0.0]).p + 0.2 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    assert_allclose(sc.fit_log_odds(PreferenceMatrix(cycle)).residual, np.log(7 / 3))
    assert sc.fit_log_odds(PreferenceMatrix(cycle)).cyclic_share == pytest.approx(1)
    sure = sc.fit_log_odds(PreferenceMatrix([[0.5, 1], [0, 0.5]]))
    assert sure.residual == np.inf
    assert np.isnan(sure.reward).all()


@examples()
@given(P=games(kinds=("uniform", "near tie")))
def test_the_rewards_are_the_least_squares_fit(P):
    odds = np.log(P.p) - np.log1p(-P.p)
    i, j = np.triu_indices(P.n, 1)
    design = np.eye(P.n)[i] - np.eye(P.n)[j]
    fit = sc.fit_log_odds(P)
    for index in np.ndindex(P.batch_shape):
        target = odds[index][i, j]
        solution, *_ = np.linalg.lstsq(design, target)
        assert_allclose(fit.reward[index], solution, atol=1e-9)
        assert_allclose(
            fit.cyclic_share[index], np.sum((target - design @ solution) ** 2) / np.sum(target**2), atol=1e-9
        )


def test_the_running_example():
    assert not sc.weak_condorcet_winner(CONDORCET).any()
    assert sc.smith_set(CONDORCET).all()
    assert members(sc.simpson_set(CONDORCET)) == {0}
    assert members(sc.borda_winners(CONDORCET)) == {1}
    assert sc.cycle_counts(CONDORCET).tolist() == [0, 0, 0, 1]
