"""Where each invariant of the mathematics is tested, and the ones that belong to no other file."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from slhf.algorithms import MMD, OMWU, RLOO, SPPO, NashMD
from slhf.errors import InvalidPreferences, MissingPair
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf
from tabular.dynamics import DYNAMICS, nash_game, reward_game, run
from tabular.policies import kl
from tests.tabular.strategies import KINDS, examples, games, policies, seeds, single_games

pytestmark = pytest.mark.numeric

WHERE = {
    1: ("invariants.test_permuting_the_actions_permutes_every_solution",),
    2: ("preferences.test_round_trips_through_counts_and_margins",),
    3: ("stackelberg.test_solution_is_certified",),
    4: (
        "nash.test_the_gap_is_the_exploitability_and_bounds_the_distance",
        "nash.test_the_divergence_of_any_policy_is_its_exploitability",
        "nash.test_it_does_not_converge_in_silence",
    ),
    5: ("nash.test_solution_is_the_fixed_point",),
    6: ("nash.test_agrees_with_cvxpy", "nash.test_agrees_with_converged_magnetic_mirror_descent"),
    7: ("lotteries.test_lotteries_stay_in_the_smith_set",),
    8: ("lotteries.test_a_condorcet_winner_takes_everything",),
    9: ("lotteries.test_odd_margins_give_a_unique_lottery_with_odd_support",),
    10: ("lotteries.test_three_cycle",),
    11: (
        "lotteries.test_scaling_the_margins_leaves_the_lottery",
        "invariants.test_scaling_the_margins_leaves_the_nearest_lottery",
        "nash.test_permuting_scaling_and_cloning",
    ),
    12: (
        "stackelberg.test_splitting_an_action_into_clones_leaves_the_totals",
        "nash.test_permuting_scaling_and_cloning",
        "rlhf.test_a_clone_can_turn_the_order_around",
    ),
    13: ("rlhf.test_under_uniform_weights_the_order_is_bordas",),
    14: (
        "rlhf.test_score_equations_hold",
        "rlhf.test_the_fit_exists_iff_every_alternative_reaches_every_other_by_wins",
    ),
    15: ("rlhf.test_rewards_of_a_bradley_terry_game_are_recovered_and_all_concepts_agree",),
    16: (
        "stackelberg.test_at_high_temperature_both_sides_stay_at_their_references",
        "nash.test_at_high_temperature_the_reference_stays",
        "rlhf.test_permutation_batch_and_limits",
        "rlhf.test_ties_at_temperature_zero_share_the_reference",
        "lotteries.test_max_entropy_is_the_limit_of_kl_nash",
        "invariants.test_the_limit_of_slhf_depends_on_the_ratio_of_temperatures",
    ),
    17: (
        "invariants.test_without_prices_the_leader_earns_at_most_the_nash_value",
        "stackelberg.test_the_leader_earns_at_most_half_against_a_follower_with_its_own_reference",
        "invariants.test_a_follower_stuck_at_its_reference_pays_more_than_half",
    ),
    18: ("stackelberg.test_the_follower_improves_on_its_reference_at_every_action",),
    19: ("stackelberg.test_envelope",),
    20: ("invariants.test_mmd_keeps_its_rate_in_every_kind_of_game",),
    21: ("invariants.test_scheduled_nash_md_keeps_its_bound_in_every_kind_of_game",),
    22: (
        "invariants.test_sppo_is_multiplicative_weights_in_every_kind_of_game",
        "invariants.test_lotteries_are_fixed_points_in_every_kind_of_game",
        "invariants.test_the_rlhf_policy_is_a_fixed_point",
        "dynamics_nash.test_the_kl_nash_is_a_fixed_point_in_every_kind_of_game",
        "dynamics.test_the_solution_is_a_fixed_point",
    ),
    23: (
        "invariants.test_a_batch_is_a_loop_and_inputs_are_left_alone",
        "invariants.test_constructors_neither_change_nor_keep_what_they_are_given",
        "dynamics.test_a_batch_is_a_loop_and_inputs_are_left_alone",
        "rlhf.test_permutation_batch_and_limits",
        "array_api.test_solutions_agree",
    ),
    24: ("invariants.test_a_spoiled_entry_is_refused_with_its_place", "preferences.test_margins_and_bradley_terry"),
    25: ("dynamics.test_converges_from_any_references",),
}
"""The tests of each invariant, by its number in the list (there may be more)."""


@pytest.mark.parametrize("test", sorted({test for tests in WHERE.values() for test in tests}))
def test_the_named_tests_exist(test):
    module, name = test.split(".")
    assert callable(getattr(importlib.import_module(f"tests.tabular.test_{module}"), name))


WELL_SEPARATED = tuple(kind for kind in KINDS if kind != "near tie")
"""Games in which it can be told which actions some lottery plays."""
SOLVERS = {
    "slhf": lambda P, leader, follower: solve_slhf(P, 0.1, 0.3, leader, follower),
    "slhf without prices": lambda P, leader, follower: solve_slhf(P, 0, 0, leader, follower),
    "kl-nash": lambda P, leader, follower: solve_nlhf(P, 0.1, leader),
    "max entropy": lambda P, leader, follower: solve_nlhf(P, 0, leader, "max_entropy"),
    "rlhf": lambda P, leader, follower: solve_rlhf(P, 0.3, leader, weights(follower), l2=0.1),
}
"""Every solver with one answer, given the Leader's reference and the Follower's (or what is made of it)."""
LOTTERIES = {
    "any": lambda P, leader, follower: solve_nlhf(P),
    "exact": lambda P, leader, follower: solve_nlhf(P, selection="exact"),
}


def weights(follower):
    """Pair weights made of a Follower."""
    return follower + np.swapaxes(follower, -1, -2)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@examples(20)
@given(P=games(kinds=WELL_SEPARATED), seed=seeds)
def test_permuting_the_actions_permutes_every_solution(solve, P, seed):
    order = np.random.default_rng(seed).permutation(P.n)
    leader, follower = policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    rows = order[:, None]
    renamed = solve(PreferenceMatrix(P.p[..., rows, order]), leader[..., order], follower[..., rows, order])
    assert_allclose(renamed.policy, solve(P, leader, follower).policy[..., order], atol=1e-7)


@pytest.mark.parametrize("solve", (SOLVERS | LOTTERIES).values(), ids=SOLVERS | LOTTERIES)
@examples(10)
@given(P=games(kinds=WELL_SEPARATED, batches=((3,), (2, 2))), seed=seeds)
def test_a_batch_is_a_loop_and_inputs_are_left_alone(solve, P, seed):
    inputs = policies(P.p.shape[:-1], seed), policies(P.p.shape, seed + 1)
    before = [P.p.copy(), *(array.copy() for array in inputs)]
    batched = solve(P, *inputs)
    for index in np.ndindex(P.batch_shape):
        one = solve(PreferenceMatrix(P.p[index]), *(array[index] for array in inputs))
        assert_allclose(batched.policy[index], one.policy, atol=1e-11)
    for old, new in zip(before, (P.p, *inputs), strict=True):
        assert_array_equal(old, new)


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
@examples(10)
@given(P=games(), seed=seeds)
def test_constructors_neither_change_nor_keep_what_they_are_given(kind, P, seed):
    for make, values in (
        (PreferenceMatrix, P.p),
        (PreferenceMatrix.from_margins, P.margins),
        (PreferenceMatrix.from_counts, 40 * P.p * (1 - np.eye(P.n))),
        (PreferenceMatrix.bradley_terry, np.random.default_rng(seed).normal(size=P.p.shape[:-1])),
    ):
        source = kind(values)
        made = make(source)
        assert_array_equal(source, values)
        found = made.numpy().p.copy()
        source += 7
        assert_array_equal(made.p, found)


BROKEN = {
    "nan": (PreferenceMatrix, lambda a, b: (np.nan, b), "must be a finite number"),
    "infinite": (PreferenceMatrix, lambda a, b: (np.inf, b), "must be a finite number"),
    "no probability": (PreferenceMatrix, lambda a, b: (1.25, -0.25), r"is a probability in \[0, 1\]"),
    "sum": (PreferenceMatrix, lambda a, b: (abs(a - 1e-8), b), "the two must sum to 1"),
    "diagonal": (PreferenceMatrix, lambda a: a - 1e-8, "the diagonal must be 1/2"),
    "margins": (PreferenceMatrix.from_margins, lambda a, b: (abs(a - 1e-8), b), "margins must be antisymmetric"),
    "nan margin": (PreferenceMatrix.from_margins, lambda a, b: (np.nan, b), "margins must be antisymmetric"),
    "own margin": (PreferenceMatrix.from_margins, lambda a: a + 1e-8, "margins must be antisymmetric"),
    "large margins": (PreferenceMatrix.from_margins, lambda a, b: (0.75, -0.75), r"is a probability in \[0, 1\]"),
    "negative count": (PreferenceMatrix.from_counts, lambda a, b: (-1, b + 2), "a count must be finite and not neg"),
    "infinite count": (PreferenceMatrix.from_counts, lambda a, b: (np.inf, b), "a count must be finite and not neg"),
    "own win": (PreferenceMatrix.from_counts, lambda a: 1, "an alternative cannot beat itself"),
    "never met": (PreferenceMatrix.from_counts, lambda a, b: (0, 0), "Never compared"),
}
"""Per rule the constructor that has it, what breaks it (in an entry and its mirror image) and what is said then."""


@pytest.mark.parametrize("rule", BROKEN)
@examples(8)
@given(P=games(), seed=seeds)
def test_a_spoiled_entry_is_refused_with_its_place(rule, P, seed):
    """By an error of its own, in whichever game of the batch and at whichever entry."""
    make, spoil, message = BROKEN[rule]
    good = {PreferenceMatrix.from_margins: P.margins, PreferenceMatrix.from_counts: 40 * P.p * (1 - np.eye(P.n))}
    values = np.array(good.get(make, P.p))
    make(values)
    rng = np.random.default_rng(seed)
    game = tuple(int(rng.integers(size)) for size in P.batch_shape)
    i, j = (int(k) for k in rng.permutation(P.n)[:2])
    if spoil.__code__.co_argcount == 1:
        values[(*game, i, i)], place = spoil(values[(*game, i, i)]), rf"\({i}, {i}\)"
    else:
        entry, image = (*game, i, j), (*game, j, i)
        (values[entry], values[image]), place = spoil(values[entry], values[image]), rf"\(({i}, {j}|{j}, {i})\)"
    if game:
        place = rf"Game \({game[0]},( {game[-1]})?\), entry {place}"
    with pytest.raises(MissingPair if rule == "never met" else InvalidPreferences, match=message) as caught:
        _ = make(values).p
    assert caught.type is (MissingPair if rule == "never met" else InvalidPreferences)
    caught.match(place)


@examples()
@given(P=games(kinds=WELL_SEPARATED), power=st.integers(0, 20), seed=seeds)
def test_scaling_the_margins_leaves_the_nearest_lottery(P, power, seed):
    """Also where there are many lotteries; by powers of two, so that ties and zeros stay."""
    reference = policies(P.p.shape[:-1], seed)
    scaled = PreferenceMatrix.from_margins(P.margins * 2.0**-power)
    found, expected = (solve_nlhf(Q, reference=reference, selection="max_entropy").policy for Q in (scaled, P))
    assert_allclose(found, expected, atol=1e-6)


def divergences(P, tau, reference, trace):
    """``(K, ...)``: KL from the KL-Nash to the policies that a run passed through."""
    return kl(solve_nlhf(P, tau, reference).log_policy, np.log(trace.policies))


@examples()
@given(P=games(), tau=st.sampled_from([3.0, 1.0, 0.3, 0.1]), seed=seeds)
def test_mmd_keeps_its_rate_in_every_kind_of_game(P, tau, seed):
    """KL(pi*, pi_t) <= (1 + eta tau)^-t KL(pi*, pi_0) at the longest step that is proven, tau / max |A|^2."""
    reference = policies(P.p.shape[:-1], seed)
    rate = tau / max(np.abs(P.margins).max(), 1e-3) ** 2
    found = divergences(P, tau, reference, run(MMD(rate, tau), P, 60, leader_reference=reference))
    t = np.arange(61.0).reshape(-1, *(1 for _ in P.batch_shape))
    assert np.all(found <= (1 + rate * tau) ** -t * found[0] + 1e-13)


@examples()
@given(P=games(), tau=st.sampled_from([10.0, 3.0, 1.0, 0.3]), seed=seeds)
def test_scheduled_nash_md_keeps_its_bound_in_every_kind_of_game(P, tau, seed):
    """KL(pi*, pi_T) <= 8 / (tau^2 (T + 1)), with room: measured in 30,000 games, below .013 / (tau^2 (T + 1))^2."""
    reference = policies(P.p.shape[:-1], seed)
    trace = run(NashMD(tau=tau), P, 200, 5, "scheduled", leader_reference=reference)
    T = trace.steps.reshape(-1, *(1 for _ in P.batch_shape))
    found = divergences(P, tau, reference, trace)
    assert np.all(found[1:] <= 8 / (tau**2 * (T[1:] + 1)))
    assert np.all(found[-1] <= 0.02 / (tau**2 * (T[-1] + 1)) ** 2)


@examples()
@given(P=games(), rate=st.sampled_from([0.1, 1.0, 5.0]), seed=seeds)
def test_sppo_is_multiplicative_weights_in_every_kind_of_game(P, rate, seed):
    """Weights, the reference's at first, that grow by e^(eta q) in every round."""
    weight = policies(P.p.shape[:-1], seed)
    for policy in run(SPPO(rate), P, 15, leader_reference=weight).policies:
        assert_allclose(policy, weight / weight.sum(-1, keepdims=True), atol=1e-13)
        weight = policy * np.exp(rate * np.sum(P.p * policy[..., None, :], -1))


@examples()
@given(P=games(), seed=seeds)
def test_lotteries_are_fixed_points_in_every_kind_of_game(P, seed):
    reference, lottery = policies(P.p.shape[:-1], seed), solve_nlhf(P).log_policy
    for spec, form in ((SPPO(0.5), "mirror"), (SPPO(0.5), "softmax"), (OMWU(0.5), "mirror"), (OMWU(0.5), "simplex")):
        game = nash_game.create_game(spec, P, reference, None)
        after = DYNAMICS[type(spec)].steps[form](spec, game, nash_game.State(lottery, lottery, 0))
        assert_allclose(np.exp(after.log_policy), np.exp(lottery), atol=1e-8)


@examples()
@given(P=games(kinds=("uniform", "cyclic", "near tie", "clones")), tau=st.sampled_from([1.0, 0.1]), seed=seeds)
def test_the_rlhf_policy_is_a_fixed_point(P, tau, seed):
    spec = RLOO(0.5, tau)
    game = reward_game.create_game(spec, P, policies(P.p.shape[:-1], seed), None)
    exact = game.optimum.log_policy
    after = DYNAMICS[RLOO].steps["softmax"](spec, game, nash_game.State(exact, exact, 0))
    assert_allclose(np.exp(after.log_policy), np.exp(exact), atol=1e-12)


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
