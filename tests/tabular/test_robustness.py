"""Noise, sampling, weights, clones and mixes: known numbers, invariances, and batches against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal

from slhf.errors import DisconnectedComparisons, InvalidParameter
from tabular import NLHF, RLHF, SLHF, PreferenceMatrix, Profile, duality_gap, robustness, solve_nlhf, solve_slhf
from tabular.dynamics import nash_game
from tests.tabular.strategies import CONDORCET, examples, policies, seeds, single_games, temperatures_or_zero

pytestmark = pytest.mark.numeric

CONCEPTS = {
    "RLHF": RLHF(0.1, l2=0.01),
    "NLHF": NLHF(0.1),
    "SLHF": SLHF(0.1, 0.1),
    "RLHF 0": RLHF(0, l2=0.01),
    "NLHF 0": NLHF(0),
    "SLHF 0": SLHF(0, 0),
}
COMMON = {"concept", "total_variation", "top", "top_changed", "loss"}


def column(frame, name, value="total_variation"):
    return frame[frame["concept"] == name][value].to_numpy()


def test_losses_are_zero_at_the_solution_and_what_they_say_elsewhere():
    other = PreferenceMatrix(CONDORCET.p[np.ix_([1, 2, 0], [1, 2, 0])], CONDORCET.labels)
    for name, concept in CONCEPTS.items():
        assert concept.loss(CONDORCET, concept.solve(CONDORCET)) == pytest.approx(0, abs=1e-12), name
        assert concept.loss(CONDORCET, concept.solve(other)) > 0.01, name
    s = solve_slhf(other, 0.1, 0.1)
    assert SLHF(0.1, 0.1).loss(CONDORCET, s) == pytest.approx(duality_gap(CONDORCET, s.policy, s.follower, 0.1, 0.1))
    for tau in (0.0, 0.1):
        s = NLHF(tau).solve(other)
        game = nash_game.NashGame(CONDORCET, tau, np.log(np.full(3, 1 / 3)))
        assert NLHF(tau).loss(CONDORCET, s) == pytest.approx(nash_game.gap(game, nash_game.State(s.log_policy, 0, 0)))
    # RLHF, as a loop: at temperature 0 the loss is the reward of the best minus that of the choice
    reward = RLHF(0, l2=0.01).solve(CONDORCET).reward
    wrong = RLHF(0, l2=0.01).solve(other)
    assert RLHF(0, l2=0.01).loss(CONDORCET, wrong) == pytest.approx(reward.max() - reward @ wrong.policy)


def test_noise():
    frame = robustness.noise(CONDORCET, CONCEPTS, [0, 0.05, 0.5], repeats=40, seed=3)
    assert set(frame.columns) == COMMON | {"level", "repeat"}
    assert len(frame) == len(CONCEPTS) * 3 * 40
    assert_frame_equal(frame, robustness.noise(CONDORCET, CONCEPTS, [0, 0.05, 0.5], repeats=40, seed=3))
    still = frame[frame.level == 0]
    assert_allclose(still.total_variation, 0, atol=1e-12)
    assert not still.top_changed.any()
    mean = frame.groupby(["concept", "level"]).total_variation.mean().unstack()
    assert (mean[0.05] > 0).sum() >= 4  # all but those that choose one answer at temperature 0, perhaps
    assert (mean[0.5] > mean[0.05]).all()
    assert (frame.loss >= 0).all()


def test_noise_is_uniform_and_a_batch_of_solutions_is_a_loop():
    seen = []

    class Spy(NLHF):
        def solve(self, P, pair_weights=None):
            seen.append(P.p)
            return super().solve(P, pair_weights)

    frame = robustness.noise(CONDORCET, {"spy": Spy(0.1)}, [0.1], repeats=500, seed=0)
    noisy = next(p for p in seen if p.ndim == 3)
    moves = (noisy - CONDORCET.p)[:, 0, 1]
    assert np.abs(moves).max() <= 0.1
    assert moves.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    for k in (0, 7):
        one = solve_nlhf(PreferenceMatrix(noisy[k]), 0.1).policy
        expected = np.abs(one - solve_nlhf(CONDORCET, 0.1).policy).sum() / 2
        assert frame.total_variation[k] == pytest.approx(expected, rel=1e-9)
        assert frame.top[k] == "ABC"[one.argmax()]
        assert frame.top_changed[k] == (one.argmax() != 0)


def test_pairs_never_asked():
    """MATH section 3: which answer RLHF gives depends on the pair that was not asked; NLHF and SLHF do not care."""
    concepts = {"RLHF": RLHF(0), "NLHF": NLHF(0), "SLHF": SLHF(0, 0)}
    frame = robustness.dropped_pairs(CONDORCET, concepts)
    assert set(frame.columns) == COMMON | {"first", "second", "treatment"}
    table = frame.set_index(["treatment", "concept", "first", "second"]).sort_index()
    assert np.argmax(RLHF(0).solve(CONDORCET).policy) == 1
    unasked = table.loc["weight 0"]
    assert unasked.top["RLHF"].to_dict() == {("A", "B"): "B", ("A", "C"): "A", ("B", "C"): "C"}
    assert unasked.top_changed["RLHF"].to_dict() == {("A", "B"): False, ("A", "C"): True, ("B", "C"): True}
    for (first, second), reward in {
        ("A", "C"): (0.7789, 0.1599, -0.9388),
        ("A", "B"): (-0.6365, 0.8676, -0.2310),
        ("B", "C"): (0.0712, -0.5478, 0.4767),
    }.items():
        full = np.array([0.0672, 0.1344, -0.2016])
        lost = full.max() - full["ABC".index(unasked.top["RLHF", first, second])]
        assert unasked.loss["RLHF", first, second] == pytest.approx(lost, abs=2e-4)
        assert "ABC"[np.argmax(reward)] == unasked.top["RLHF", first, second]
    assert_allclose(unasked.total_variation[["NLHF", "SLHF"]], 0, atol=1e-12)
    # If nothing is known of the pair, everybody suffers: without A against C, A beats B and is beaten by nobody.
    unknown = table.loc["set to 1/2"]
    assert unknown.top["NLHF", "A", "C"] == unknown.top["SLHF", "A", "C"] == "A"
    assert unknown.total_variation["NLHF", "A", "C"] == pytest.approx(0.5)
    assert unknown.total_variation["SLHF", "A", "B"] == pytest.approx(1)  # B is beaten by nobody then


def test_weights_matter_to_rlhf_only_and_equal_ones_to_nobody():
    frame = robustness.pair_weighting(CONDORCET, CONCEPTS, [1, 1e6], repeats=50)
    assert set(frame.columns) == COMMON | {"concentration", "repeat"}
    assert_allclose(frame[~frame.concept.str.startswith("RLHF")].total_variation, 0, atol=1e-12)
    rlhf = frame[frame.concept == "RLHF"].groupby("concentration").total_variation.mean()
    assert rlhf[1.0] > 0.3
    assert rlhf[1e6] < 0.01


def test_sampling_noise_hits_everybody_and_uneven_sampling_biases_rlhf():
    uneven = np.array([[0, 1, 0.02], [1, 0, 1], [0.02, 1, 0]])
    frame = robustness.sampling(CONDORCET, CONCEPTS, [10, 1_000_000], repeats=50, pair_weights=uneven)
    assert set(frame.columns) == COMMON | {"comparisons", "repeat", "never_asked"}
    mean = frame.groupby(["comparisons", "concept"]).total_variation.mean()
    assert (mean[10] > 0.2).all()
    for name in ("NLHF", "SLHF", "NLHF 0", "SLHF 0"):
        assert mean[1_000_000, name] < 0.05
    assert mean[1_000_000, "RLHF"] > 0.5  # A, as if A and C had hardly met
    assert set(frame[(frame.concept == "RLHF 0") & (frame.comparisons == 1_000_000)].top) == {"A"}
    few = frame[frame.comparisons == 10]
    assert few.groupby("repeat").never_asked.nunique().eq(1).all()  # the same data for every concept
    assert few.never_asked.max() >= 1
    assert (frame[frame.comparisons == 1_000_000].never_asked == 0).all()


def test_even_sampling_is_consistent_for_all():
    frame = robustness.sampling(CONDORCET, CONCEPTS, [3_000_000], repeats=20, seed=1)
    assert frame.total_variation.max() < 0.05
    assert not frame.top_changed.any()


def test_separable_samples_are_refused_without_a_penalty():
    with pytest.raises(DisconnectedComparisons, match="l2"):
        robustness.sampling(CONDORCET, {"RLHF": RLHF(0.1)}, [3], repeats=20)


@examples(20)
@given(P=single_games(sizes=(2, 4)), tau=temperatures_or_zero, copies=st.integers(0, 3), seed=seeds)
def test_clones_that_share_a_reference_change_nothing_for_nlhf_and_slhf(P, tau, copies, seed):
    reference, follower = policies((P.n,), seed), policies((P.n, P.n), seed + 1)
    nash = NLHF(tau, reference, "any" if tau else "max_entropy")
    concepts = {"NLHF": nash, "SLHF": SLHF(tau, tau, reference, follower), "SLHF same": SLHF(tau, tau, None, reference)}
    frame = robustness.clones(P, concepts, [copies])
    assert set(frame.columns) == COMMON - {"loss"} | {"cloned", "copies", "share", "share_before"}
    assert_allclose(frame.total_variation, 0, atol=1e-7)
    assert_allclose(frame.share, frame.share_before, atol=1e-7)


def test_clones_with_whole_references_gain_mass():
    frame = robustness.clones(CONDORCET, {"NLHF": NLHF(0.3), "SLHF": SLHF(0.3, 0.3)}, [0, 3], mass="whole")
    many = frame[frame.copies == 3]
    assert (many.share > many.share_before + 0.02).all()
    assert_allclose(frame[frame.copies == 0].total_variation, 0, atol=1e-12)
    frame = robustness.clones(CONDORCET, {"NLHF": NLHF(0), "SLHF": SLHF(0, 0)}, [3], mass="whole")
    assert_allclose(frame.total_variation, 0, atol=1e-9)  # at temperature 0 the reference only breaks ties


def test_clones_of_the_winner_change_what_rlhf_chooses():
    """Borda: with three copies R meets itself too often, and B, which beats R, comes first."""
    P = PreferenceMatrix.from_rankings(["RGB", "BRG"], [2, 3], labels="RGB")
    frame = robustness.clones(P, {"RLHF": RLHF(0, l2=0.1)}, [1, 3])
    row = frame[frame.cloned == "R"].set_index("copies")
    assert row.top.to_dict() == {1: "R", 3: "B"}
    assert row.top_changed.to_dict() == {1: False, 3: True}


def test_clones_that_beat_each_other_in_a_circle_dethrone_the_leader_but_not_the_lottery():
    P = PreferenceMatrix.from_rankings(["AB", "BA"], [6, 4])
    concepts = {"NLHF": NLHF(0), "SLHF": SLHF(0, 0)}
    frame = robustness.clones(P, concepts, [2], cycle=0.9).set_index(["concept", "cloned"])
    assert frame.share_before["SLHF", "A"] == frame.share["NLHF", "A"] == pytest.approx(1)
    assert frame.share["SLHF", "A"] == 0  # each clone is worth .1, B is worth .4
    game, original = robustness.copy_alternative(P, "A", 2, cycle=0.9)
    assert game.labels == ("A", "B", "A#1", "A#2")
    assert original.tolist() == [0, 1, 0, 0]
    assert_allclose(game.p[0], [0.5, 0.6, 0.9, 0.1])
    assert_allclose(game.p[3], [0.9, 0.6, 0.1, 0.5])


def test_annotator_mix():
    profile = Profile(["ABC", "BCA", "CAB"], [0.4, 0.35, 0.25])
    frame = robustness.annotator_mix(profile, {"NLHF": NLHF(0), "SLHF": SLHF(0, 0)}, end=[25, 40, 35], points=3)
    assert list(frame.columns) == ["concept", "t", "alternative", "probability", "total_variation"]
    table = frame.set_index(["concept", "t", "alternative"]).probability
    assert_allclose(table["NLHF", 0.0], [0.5, 0.2, 0.3], atol=1e-12)
    assert_allclose(table["NLHF", 1.0], [1 - 2 * 0.35, 1 - 2 * 0.25, 1 - 2 * 0.4], atol=1e-12)
    a1, a2, a3 = (0.4 + 0.25) / 2, 0.375, 0.3
    assert_allclose(table["NLHF", 0.5], [1 - 2 * a3, 1 - 2 * a1, 1 - 2 * a2], atol=1e-12)
    assert_allclose(table["SLHF", 0.5], [0, 1, 0])
    distance = frame[frame.concept == "SLHF"].groupby("t").total_variation.first()
    assert_allclose(distance, [0, 1, 1])
    other = robustness.annotator_mix(profile, {"NLHF": NLHF(0)}, [25, 40, 35], start=[25, 40, 35], points=2)
    assert_allclose(other.total_variation, 0, atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: robustness.noise(PreferenceMatrix(CONDORCET.p[None]), CONCEPTS, [0.1]),
        lambda: robustness.noise(CONDORCET, CONCEPTS, [-0.1]),
        lambda: robustness.noise(CONDORCET, CONCEPTS, [0.1], repeats=0),
        lambda: robustness.sampling(CONDORCET, CONCEPTS, [0]),
        lambda: robustness.sampling(CONDORCET, CONCEPTS, [10], pair_weights=np.zeros((3, 3))),
        lambda: robustness.pair_weighting(CONDORCET, CONCEPTS, [0]),
        lambda: robustness.clones(CONDORCET, CONCEPTS, [1], mass="half"),
        lambda: robustness.copy_alternative(CONDORCET, "D", 1),
        lambda: robustness.copy_alternative(CONDORCET, "A", -1),
        lambda: robustness.copy_alternative(CONDORCET, "A", 1, cycle=2),
        lambda: robustness.annotator_mix(Profile(["AB"]), CONCEPTS, [1], points=1),
        lambda: robustness.annotator_mix(Profile(["AB"]), CONCEPTS, [0]),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(InvalidParameter):
        call()
