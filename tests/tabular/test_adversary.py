"""Attacks against a grid of all perturbations; flip budgets against all vertices of the budget's box."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from slhf.errors import DisconnectedComparisons, InvalidParameter
from tabular import NLHF, RLHF, SLHF, PreferenceMatrix, attacks, flip_budgets, solve_nlhf, worst_case
from tabular.policies import total_variation
from tests.tabular.strategies import CONDORCET, examples, seeds, single_games

pytestmark = pytest.mark.numeric


def box(P, budget, points):
    """All perturbations whose entries are on a grid of ``points`` within the budget, as one batch."""
    i, j = np.triu_indices(P.n, 1)
    grid = np.array(list(product(np.linspace(-budget, budget, points), repeat=len(i))))
    moved = np.repeat(P.p[None], len(grid), axis=0)
    moved[:, i, j] = np.clip(P.p[i, j] + grid, 0, 1)
    moved[:, j, i] = 1 - moved[:, i, j]
    return PreferenceMatrix(moved)


@examples(15)
@given(
    P=single_games(sizes=(3, 3)),
    concept=st.sampled_from([RLHF(0.3, l2=0.1), NLHF(0.1), NLHF(0.02), SLHF(0.1, 0.1), SLHF(0.05, 0.02)]),
    budget=st.sampled_from([0.02, 0.1, 0.3]),
)
def test_an_attack_is_legal_and_no_grid_finds_a_worse_one(P, concept, budget):
    attack = worst_case(P, concept, budget)
    clean = concept.solve(P).policy
    assert np.abs(attack.preferences.p - P.p).max() <= budget + 1e-12
    reached = total_variation(concept.solve(attack.preferences).policy, clean)
    assert attack.total_variation == pytest.approx(reached, abs=1e-9)
    grid = total_variation(concept.solve(box(P, budget, 15)).policy, clean)
    assert attack.total_variation >= grid.max() - 1e-6
    if isinstance(concept, SLHF):  # V moves by at most the budget, so log-odds by at most twice that / tau_L
        assert attack.total_variation <= np.tanh(budget / (2 * concept.tau_leader)) + 1e-12


def test_small_attacks_are_first_order_and_larger_budgets_are_worse():
    concepts = {"RLHF": RLHF(0.3), "NLHF": NLHF(0.1), "SLHF": SLHF(0.1, 0.1)}
    frame = attacks(CONDORCET, concepts, [1e-5, 0.05, 0.2])
    assert list(frame.columns) == [
        *("concept", "budget", "first_order", "total_variation", "top", "top_changed", "loss"),
    ]
    small = frame[frame.budget == 1e-5]
    assert_allclose(small.total_variation, small.first_order, rtol=1e-3)
    assert frame.groupby("concept").total_variation.apply(lambda tv: tv.is_monotonic_increasing).all()
    assert frame[frame.budget == 0.2].top_changed.all()


def test_attacks_beat_noise_of_the_same_size():
    rng = np.random.default_rng(0)
    margins = np.triu(rng.uniform(-0.4, 0.4, (8, 8)), 1)
    P = PreferenceMatrix.from_margins(margins - margins.T)
    noise = np.triu(rng.uniform(-0.1, 0.1, (2000, 8, 8)), 1)
    noisy = PreferenceMatrix(P.p + noise - np.swapaxes(noise, -1, -2))
    clean = solve_nlhf(P, 0.1).policy
    random = total_variation(solve_nlhf(noisy, 0.1).policy, clean)
    assert worst_case(P, NLHF(0.1), 0.1).total_variation > 1.5 * random.max()


@examples(40)
@given(P=single_games(sizes=(2, 4)), seed=seeds)
def test_flip_budgets_are_exact(P, seed):
    frame = flip_budgets(P).set_index("concept")
    rules = {
        "rlhf": lambda p: p.sum(-1),
        "slhf": lambda p: np.where(np.eye(P.n, dtype=bool), np.inf, p).min(-1),
        "nlhf": lambda p: np.where(np.eye(P.n, dtype=bool), np.inf, p).min(-1) > 0.5,
    }
    for name, score in rules.items():
        row = frame.loc[name]
        if row.answer == "":
            assert not rules["nlhf"](P.p).any()
            assert row.budget == 0
            continue
        answer = P.labels.index(row.answer)
        others = np.arange(P.n) != answer

        def leads(budget, score=score, answer=answer, others=others):
            """Whether the answer is first whatever happens; the worst case of each rival is a vertex of the box."""
            scores = score(box(P, budget, 2).p).astype(float)
            return (scores[:, answer, None] > scores[:, others]).all(-1)

        if row.budget > 1e-9:
            assert leads(row.budget * (1 - 1e-6)).all()
        assert not leads(row.budget * (1 + 1e-6) + 1e-9).all()


def test_flip_budgets_of_the_example():
    frame = flip_budgets(CONDORCET).set_index("concept")
    assert frame.loc["slhf", ["answer", "rival"]].tolist() == ["A", "B"]
    assert frame.budget["slhf"] == pytest.approx(0.025)  # worst duels .4 and .35
    assert frame.loc["rlhf", ["answer", "rival"]].tolist() == ["B", "A"]
    assert frame.budget["rlhf"] == pytest.approx(0.0125)  # Borda sums 1.6 and 1.55, and four entries move
    assert frame.loc["nlhf", ["answer", "rival", "budget"]].tolist() == ["", "", 0]
    P = PreferenceMatrix.from_rankings(["ABC", "BAC"], [7, 3])
    nlhf = flip_budgets(P).set_index("concept").loc["nlhf"]
    assert nlhf.tolist() == ["A", "B", pytest.approx(0.2)]
    # B may lose no more than everything: A loses .1 and .5, and gets .4 from nowhere
    sure = PreferenceMatrix([[0.5, 0.9, 1.0], [0.1, 0.5, 0.95], [0.0, 0.05, 0.5]])
    rlhf = flip_budgets(sure).set_index("concept").loc["rlhf"]
    assert rlhf.budget == pytest.approx((0.85 - 0.05) / 3)  # B can win only .05 more against C


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InvalidParameter, match="jumps"):
        worst_case(CONDORCET, NLHF(0), 0.1)
    for budget in (0, 2):
        with pytest.raises(InvalidParameter, match="budget"):
            worst_case(CONDORCET, NLHF(0.1), budget)
    with pytest.raises(InvalidParameter, match="one game"):
        flip_budgets(PreferenceMatrix(CONDORCET.p[None]))
    with pytest.raises(DisconnectedComparisons):
        worst_case(CONDORCET, RLHF(0.1), 0.9)
