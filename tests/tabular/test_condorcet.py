"""Every number of the Condorcet example (MATH, Section 3), through the public API."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf
from tests.tabular.strategies import CONDORCET

pytestmark = pytest.mark.numeric

EQUAL = PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"])


def test_preferences_are_shares_of_annotators():
    a1, a2, a3 = 0.4, 0.35, 0.25
    assert CONDORCET.labels == ("A", "B", "C")
    assert_allclose([CONDORCET.p[0, 1], CONDORCET.p[1, 2], CONDORCET.p[2, 0]], [a1 + a3, a1 + a2, a2 + a3])


@pytest.mark.parametrize(
    ("never_asked", "reward", "winner"),
    [
        (None, (0.0672, 0.1344, -0.2016), "B"),
        ((0, 2), (0.7789, 0.1599, -0.9388), "A"),
        ((0, 1), (-0.6365, 0.8676, -0.2310), "B"),
        ((1, 2), (0.0712, -0.5478, 0.4767), "C"),
    ],
)
def test_rlhf_depends_on_which_pairs_were_asked(never_asked, reward, winner):
    asked = 1 - np.eye(3)
    if never_asked:
        asked[never_asked] = asked[never_asked[::-1]] = 0
    solution = solve_rlhf(CONDORCET, tau=0, pair_weights=asked)
    assert_allclose(solution.reward, reward, atol=6e-5)
    assert [label for label, best in zip(CONDORCET.labels, solution.support, strict=True) if best] == [winner]
    assert solution.policy[CONDORCET.labels.index(winner)] == 1


@pytest.mark.parametrize("selection", ["any", "max_entropy", "exact"])
def test_nlhf_is_the_maximal_lottery(selection):
    solution = solve_nlhf(CONDORCET, selection=selection)
    assert_allclose(solution.policy, [0.5, 0.2, 0.3], atol=1e-14)
    assert solution.value == 0.5


def test_slhf_without_regularisation():
    solution = solve_slhf(CONDORCET, 0, 0)
    assert_allclose(solution.policy, [1, 0, 0])
    assert_allclose(solution.follower_value, [0.4, 0.35, 0.25])
    assert solution.value == pytest.approx(0.4)
    assert solution.support.tolist() == [True, False, False]
    assert_allclose(solution.follower, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # A -> C, B -> A, C -> B


@pytest.mark.parametrize(
    ("tau", "policy", "value", "win_rate"),
    [
        (1, (0.3403, 0.3432, 0.3165), 0.49078, 0.51836),
        (0.1, (0.5002, 0.3543, 0.1455), 0.43212, 0.60406),
        (0.01, (0.9933, 0.0067, 0.0000), 0.40007, 0.60033),
    ],
)
def test_slhf_with_uniform_references(tau, policy, value, win_rate):
    solution = solve_slhf(CONDORCET, tau, tau)
    assert_allclose(solution.policy, policy, atol=6e-5)
    assert solution.value == pytest.approx(value, abs=6e-6)
    assert solution.follower_win_rate == pytest.approx(win_rate, abs=6e-6)
    assert solution.certificate.worst() < 1e-14


def test_at_temperature_one_the_mode_is_b():
    assert np.argmax(solve_slhf(CONDORCET, 1, 1).policy) == 1


def satisfied(start, kernel, rounds=3):
    """How likely a chain from ``start`` through ``kernel`` has visited action 0 after 1, ..., ``rounds`` draws."""
    unsatisfied, probabilities = np.array(start, dtype=float), []
    for _ in range(rounds):
        unsatisfied[0] = 0
        probabilities.append(1 - unsatisfied.sum())
        unsatisfied = unsatisfied @ kernel
    return probabilities


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0, (1 / 3, 2 / 3, 1)),
        (0.01, (0.3333, 0.6667, 1.0000)),
        (0.1, (0.3333, 0.6153, 0.8813)),
        (1, (0.3333, 0.5566, 0.7071)),
    ],
)
def test_refinement_satisfies_a_user_sooner_than_resampling(tau, expected):
    solution = solve_slhf(EQUAL, tau, tau)
    assert_allclose(satisfied(solution.policy, solution.follower), expected, atol=6e-5)
    nash = solve_nlhf(EQUAL).policy
    assert_allclose(satisfied(nash, np.tile(nash, (3, 1))), (0.3333, 0.5556, 0.7037), atol=6e-5)


def test_the_leader_can_be_a_condorcet_loser():
    """A third of the voters on each rotation of ABC; 49 % put D first, the others last."""
    rotations = ["ABC", "BCA", "CAB"]
    P = PreferenceMatrix.from_rankings([f"D{r}" for r in rotations] + [f"{r}D" for r in rotations], [49] * 3 + [51] * 3)
    assert_allclose(P.p.min(1), [1 / 3, 1 / 3, 1 / 3, 0.49])
    assert_allclose(solve_slhf(P, 0, 0).policy, [0, 0, 0, 1])
    assert (P.p[3, :3] < 0.5).all()
    assert_allclose(solve_nlhf(P).policy, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)


def test_rlhf_is_not_condorcet_consistent_and_depends_on_irrelevant_alternatives():
    P = PreferenceMatrix.from_rankings(["RGB", "BRG"], [2, 3], labels="RGB")
    borda = (P.p.sum(1) - 0.5) / 2
    assert_allclose(borda, [0.7, 0.2, 0.6])
    assert_allclose(solve_rlhf(P).reward, [0.617, -0.929, 0.312], atol=6e-4)
    assert np.argmax(solve_rlhf(P, tau=0).policy) == 0
    for winner in (solve_nlhf(P).policy, solve_slhf(P, 0, 0).policy):
        assert_allclose(winner, [0, 0, 1], atol=1e-12)
    without_g = PreferenceMatrix(P.p[np.ix_([0, 2], [0, 2])], ["R", "B"])
    assert np.argmax(solve_rlhf(without_g, tau=0).policy) == 1
