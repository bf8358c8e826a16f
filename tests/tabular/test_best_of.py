"""Best of N by majority, against enumeration of ordered samples; compute parity."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from slhf.errors import InvalidParameter
from tabular import PreferenceMatrix, Refinement, best_of, best_of_sampled, compute_parity, solve_nlhf, solve_slhf
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds, single_games

pytestmark = pytest.mark.numeric


def by_ordered_samples(p, policy, count):
    """Every sequence of ``count`` answers; each of the samples that win most is returned as often."""
    result = np.zeros(len(p))
    for sample in product(range(len(p)), repeat=count):
        wins = [sum(p[a, b] for k, b in enumerate(sample) if k != place) for place, a in enumerate(sample)]
        best = [a for a, won in zip(sample, wins, strict=True) if won > max(wins) - 1e-9]
        for a in best:
            result[a] += np.prod(policy[list(sample)]) / len(best)
    return result


@examples()
@given(P=single_games(sizes=(2, 4)), count=st.integers(1, 4), seed=seeds)
def test_multisets_give_what_ordered_samples_give(P, count, seed):
    policy = policies((P.n,), seed, floor=0)
    assert_allclose(best_of(P, policy, count), by_ordered_samples(P.p, policy, count), atol=1e-12)


@examples()
@given(P=games(), seed=seeds)
def test_best_of_one_is_a_sample_and_ties_leave_the_policy_as_it_is(P, seed):
    policy = policies(P.p.shape[:-1], seed)
    assert_allclose(best_of(P, policy, 1), policy, atol=1e-14)
    assert_allclose(best_of(PreferenceMatrix(np.full(P.p.shape, 0.5)), policy, 3), policy, atol=1e-14)


def test_many_answers_return_the_one_that_wins_most_against_the_policy():
    policy = np.array([0.5, 0.3, 0.2])
    assert best_of(CONDORCET, policy, 500)[np.argmax(CONDORCET.p @ policy)] > 0.99


def test_a_policy_of_one_answer_and_a_game_of_one():
    assert_allclose(best_of(CONDORCET, [0, 1, 0], 4), [0, 1, 0])
    assert_allclose(best_of(PreferenceMatrix([[0.5]]), [1], 4), [1])


def test_sampling_estimates_it_within_its_standard_errors_and_from_its_seed():
    P = PreferenceMatrix(np.stack([CONDORCET.p, CONDORCET.p[::-1, ::-1]]))
    exact = best_of(P, [0.2, 0.3, 0.5], 5)
    mean, error = best_of_sampled(P, [0.2, 0.3, 0.5], 5, 20_000, seed=1)
    assert (abs(mean - exact) < 4 * error).all()
    assert_allclose(error, np.sqrt(exact * (1 - exact) / 20_000), rtol=0.1)
    again, _ = best_of_sampled(P, [0.2, 0.3, 0.5], 5, 20_000, seed=1)
    other, _ = best_of_sampled(P, [0.2, 0.3, 0.5], 5, 20_000, seed=2)
    assert_allclose(again, mean, atol=0)
    assert (other != mean).any()


def test_too_many_multisets_are_refused_with_the_way_out():
    P = PreferenceMatrix(np.full((30, 30), 0.5))
    with pytest.raises(InvalidParameter, match="best_of_sampled"):
        best_of(P, np.full(30, 1 / 30), 10)
    with pytest.raises(InvalidParameter, match="at least one"):
        best_of(P, np.full(30, 1 / 30), 0)
    with pytest.raises(InvalidParameter, match="at least 2"):
        best_of_sampled(P, np.full(30, 1 / 30), 10, 1, seed=0)


def test_compute_parity():
    s = solve_slhf(CONDORCET, 0.1, 0.1)
    chain = Refinement.from_solution(s)
    nash = solve_nlhf(CONDORCET).policy
    table = compute_parity(CONDORCET, chain, {"nash": nash, "leader": s.policy}, targets=1, rounds=3)
    assert len(table) == 3 * (1 + 2 * 2)
    rows = table.set_index(["method", "policy", "answers"]).sort_index()
    last = chain.distributions(3)[-1]
    assert_allclose(rows.loc[("refinement", "", 3), ["met", "returned"]].tolist(), [chain.met(1, 3)[-1], last[1]])
    assert_allclose(rows.loc["refinement"].beats_refinement, 0.5)
    assert_allclose(rows.loc[("resampling", "nash")].met, 1 - (1 - nash[1]) ** np.arange(1, 4))
    assert_allclose(rows.loc[("resampling", "nash")].returned, nash[1])
    assert_allclose(rows.loc[("resampling", "nash")].exploitability, 0, atol=1e-14)
    assert_allclose(rows.loc[("best of N", "nash")].met, rows.loc[("resampling", "nash")].met)
    best = by_ordered_samples(CONDORCET.p, s.policy, 3)
    row = rows.loc[("best of N", "leader", 3)]
    assert rows.returned["best of N", "leader", 1] == pytest.approx(s.policy[1])
    assert row.returned == pytest.approx(best[1])
    assert row.beats_refinement == pytest.approx(best @ CONDORCET.p @ last)
    assert row.exploitability == pytest.approx(max(CONDORCET.p @ best) - 0.5)


def test_among_the_answers_is_not_the_answer_given():
    """At temperature 0 three refinements show every answer of the cycle; the last one is not the best."""
    chain = Refinement.from_solution(solve_slhf(CONDORCET, 0, 0))
    table = compute_parity(CONDORCET, chain, {"nash": solve_nlhf(CONDORCET).policy}, targets=0, rounds=3)
    rows = table.set_index(["method", "answers"])
    assert rows.met["refinement", 3] == 1
    assert rows.returned["refinement", 3] == 0
    assert rows.met["best of N", 3] == pytest.approx(1 - 0.5**3)
    assert rows.returned["best of N", 3] == pytest.approx(
        by_ordered_samples(CONDORCET.p, np.array([0.5, 0.2, 0.3]), 3)[0]
    )


def test_one_game_at_a_time():
    P = PreferenceMatrix(np.stack([CONDORCET.p] * 2))
    with pytest.raises(InvalidParameter, match="one game"):
        compute_parity(P, Refinement.from_solution(solve_slhf(P)), {}, 0, 2)
