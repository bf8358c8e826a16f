"""Where each invariant of the mathematics is tested, and the ones that belong to no other file."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tabular import solve_nlhf, solve_slhf
from tests.tabular.strategies import examples, games, policies, seeds, single_games

WHERE = {
    1: "stackelberg.test_permuting_the_actions_permutes_the_solution",
    2: "preferences.test_round_trips_through_counts_and_margins",
    3: "stackelberg.test_solution_is_certified",
    4: "nash.test_the_gap_is_the_exploitability_and_bounds_the_distance",
    5: "nash.test_solution_is_the_fixed_point",
    6: "nash.test_agrees_with_cvxpy",
    7: "lotteries.test_lotteries_stay_in_the_smith_set",
    8: "lotteries.test_a_condorcet_winner_takes_everything",
    9: "lotteries.test_odd_margins_give_a_unique_lottery_with_odd_support",
    10: "lotteries.test_three_cycle",
    11: "lotteries.test_scaling_the_margins_leaves_the_lottery",
    12: "stackelberg.test_splitting_an_action_into_clones_leaves_the_totals",
    13: "rlhf.test_under_uniform_weights_the_order_is_bordas",
    14: "rlhf.test_score_equations_hold",
    15: "rlhf.test_rewards_of_a_bradley_terry_game_are_recovered_and_all_concepts_agree",
    16: "invariants.test_the_limit_of_slhf_depends_on_the_ratio_of_temperatures",
    17: "invariants.test_a_follower_stuck_at_its_reference_pays_more_than_half",
    18: "stackelberg.test_the_follower_improves_on_its_reference_at_every_action",
    19: "stackelberg.test_envelope",
    20: "dynamics_nash.test_mmd_converges_at_its_proven_rate",
    21: "dynamics_nash.test_nash_md_with_its_schedule_keeps_its_bound",
    22: "dynamics_nash.test_sppo_is_multiplicative_weights",
    23: "array_api.test_solutions_agree",
    24: "preferences.test_a_bad_matrix_is_refused_with_its_place",
    25: "dynamics.test_reaches_the_closed_form",
}
"""One test of each invariant, by its number in the list (there may be more)."""


@pytest.mark.parametrize("test", WHERE.values(), ids=str)
def test_the_named_tests_exist(test):
    module, name = test.split(".")
    assert callable(getattr(importlib.import_module(f"tests.tabular.test_{module}"), name))


@examples()
@given(P=single_games(kinds=("coarse", "clones")), ratio=st.sampled_from([0.25, 0.5, 2.0, 4.0]), seed=seeds)
def test_the_limit_of_slhf_depends_on_the_ratio_of_temperatures(P, ratio, seed):
    """pi_ref(y) m(y)^(-tau_F / tau_L) within the Simpson set, m(y) the reference mass of the best replies to y."""
    leader_ref, follower_ref = policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    worst = P.p.min(1)
    mass = np.sum(follower_ref * np.isclose(P.p, worst[:, None], atol=1e-12), 1)
    weight = np.where(np.isclose(worst, worst.max()), leader_ref * mass**-ratio, 0)
    s = solve_slhf(P, 1e-5, ratio * 1e-5, leader_ref, follower_ref)
    assert_allclose(s.policy, weight / weight.sum(), atol=1e-8)


@examples()
@given(P=games(kinds=("uniform", "cyclic")), seed=seeds)
def test_a_follower_stuck_at_its_reference_pays_more_than_half(P, seed):
    """The bound of 1/2 needs tau_F = tau_L: at tau_F -> infinity the Leader takes the best row against omega_ref."""
    follower_ref = policies(P.p.shape[:-1], seed)[..., None, :]
    best = np.sum(P.p * follower_ref, -1).max(-1)
    value = solve_slhf(P, 0, 1e7, follower_reference=np.broadcast_to(follower_ref, P.p.shape)).value
    assert_allclose(value, best, atol=1e-6)
    assert np.all(value > 0.5 - 1e-6)
    assert np.all((value > 0.5) | (best < 0.5 + 1e-5))


@examples()
@given(P=games())
def test_without_prices_the_leader_earns_at_most_the_nash_value(P):
    value = solve_slhf(P, 0, 0).value
    assert_allclose(value, P.p.min(-1).max(-1), atol=1e-12)
    assert np.all(value <= 0.5 + 1e-12)
    lottery = solve_nlhf(P, 0).policy
    earned = np.sum(lottery[..., :, None] * P.p, -2).min(-1)
    assert_allclose(earned, np.full(P.batch_shape, 0.5), atol=1e-8)
