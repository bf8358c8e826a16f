"""Cycle statistics and choices among samples, against enumeration."""

import itertools

import numpy as np
import pytest

from experiments.answer_games import agreements, among, best_of, choices, clones, cycle_statistics
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf

pytestmark = pytest.mark.numeric

TAU = 0.1


def games(seed, count, n, levels=6):
    """Random games whose preferences are multiples of 1/levels, so with ties and certainties, as from attributes."""
    rng = np.random.default_rng(seed)
    upper = rng.integers(0, levels + 1, size=(count, n, n)) / levels
    p = np.triu(upper, 1)
    return p + np.tril(1 - np.swapaxes(p, -1, -2), -1) + 0.5 * np.eye(n)


def with_clones(p, original):
    """The games in which answer k is a copy of ``original[k]``, and which answers are the same text."""
    original = np.array(original)
    same = original[:, None] == original
    return p[:, original[:, None], original], np.broadcast_to(same, (len(p), *same.shape))


def simple_cycles(p):
    """The lengths of all simple cycles of the graph p > 1/2, by trying every ordered subset."""
    lengths = []
    for k in range(3, len(p) + 1):
        for nodes in itertools.permutations(range(len(p)), k):
            if nodes[0] == min(nodes) and all(p[i, j] > 0.5 for i, j in itertools.pairwise([*nodes, nodes[0]])):
                lengths.append(k)
    return lengths


@pytest.mark.parametrize("n", [3, 4, 5])
def test_cycles_are_those_of_enumeration(n):
    p = games(n, 40, n, levels=3)
    same = np.broadcast_to(np.eye(n, dtype=bool), p.shape)
    found = cycle_statistics(PreferenceMatrix(p), same, resamples=200, seed=0)
    cycles = [simple_cycles(game) for game in p]
    assert found["share"] == pytest.approx(np.mean([bool(lengths) for lengths in cycles]))
    shortest = [min(lengths) for lengths in cycles if lengths]
    assert found["lengths"] == {str(k): shortest.count(k) for k in sorted(set(shortest))}
    assert found["cyclic_triples"] == pytest.approx(
        np.mean([lengths.count(3) for lengths in cycles]) / len(list(itertools.combinations(range(n), 3)))
    )
    assert found["longest"] >= np.mean([max(lengths) for lengths in cycles if lengths])
    pairs = [(game, i, j) for game in p for i, j in itertools.combinations(range(n), 2)]
    assert found["ties"] == pytest.approx(np.mean([game[i, j] == 0.5 for game, i, j in pairs]))
    winners = [any(all(game[i, j] > 0.5 for j in range(n) if j != i) for i in range(n)) for game in p]
    assert found["condorcet_winner"] == pytest.approx(np.mean(winners))
    assert found["low"] <= found["share"] <= found["high"]
    assert found["condorcet_low"] <= found["condorcet_winner"] <= found["condorcet_high"]


def test_without_ties_the_longest_cycle_is_the_one_that_is_reported():
    p = np.where(games(1, 40, 5, levels=2) > np.triu(np.full((5, 5), 0.25)), 0.9, 0.1)
    p = np.triu(p, 1) + np.tril(1 - np.swapaxes(np.triu(p, 1), -1, -2), -1) + 0.5 * np.eye(5)
    found = cycle_statistics(PreferenceMatrix(p), np.broadcast_to(np.eye(5, dtype=bool), p.shape), 10, 0)
    longest = [max(lengths) for lengths in map(simple_cycles, p) if lengths]
    assert found["longest"] == pytest.approx(np.mean(longest))
    assert set(found["lengths"]) == {"3"}


def test_copies_of_a_text_change_neither_cycles_nor_winners():
    p = games(2, 60, 4)
    merged = cycle_statistics(PreferenceMatrix(p), np.broadcast_to(np.eye(4, dtype=bool), p.shape), 100, 0)
    copied, same = with_clones(p, [0, 1, 2, 3, 1, 1, 3])
    kept = cycle_statistics(PreferenceMatrix(copied), same, 100, 0)
    for key in ("share", "low", "high", "lengths", "condorcet_winner"):
        assert kept[key] == merged[key], key
    assert (kept["answers"], kept["distinct"], merged["distinct"]) == (7, pytest.approx(4), pytest.approx(4))


def test_a_majority_of_exactly_one_half_is_no_edge_and_no_cycles_have_no_longest():
    p = np.full((3, 4, 4), 0.5)
    found = cycle_statistics(PreferenceMatrix(p), np.broadcast_to(np.eye(4, dtype=bool), p.shape), 100, 0)
    assert (found["share"], found["low"], found["high"], found["lengths"]) == (0, None, None, {})
    assert (found["longest"], found["ties"], found["condorcet_winner"]) == (None, 1, 0)


def test_clones_are_identical_texts_of_one_prompt():
    same = clones([["a", "b"], ["a", "c"], ["b", "b"]])
    assert same[0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert same[1].tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_each_concept_plays_what_its_definition_says():
    p = games(3, 30, 5)
    found = choices(PreferenceMatrix(p), TAU)
    assert np.allclose(found["one at random"], 1 / 5)
    for k, game in enumerate(p):
        wins = [sum(game[i, j] for j in range(5) if j != i) for i in range(5)]
        best = np.array([np.isclose(w, max(wins)) for w in wins])
        assert np.allclose(found["RLHF (best of N)"][k], best / best.sum())
        nash = found["NLHF"][k]
        weights = np.exp(game @ nash / TAU)
        assert np.allclose(nash, weights / weights.sum(), atol=1e-9)
        follower = np.exp(-game / TAU)
        follower /= follower.sum(1, keepdims=True)
        value = -TAU * np.log(np.exp(-game / TAU).mean(1))
        leader = np.exp(value / TAU) / np.exp(value / TAU).sum()
        assert np.allclose(found["SLHF Leader"][k], leader)
        assert np.allclose(found["SLHF Follower"][k], leader @ follower)


def test_best_of_n_is_where_the_bradley_terry_reward_is_greatest():
    p = games(4, 50, 6)
    reward = solve_rlhf(PreferenceMatrix(p), l2=0.1).reward
    best = reward >= reward.max(-1, keepdims=True) - 1e-9
    assert np.allclose(best_of(PreferenceMatrix(p)), best / best.sum(-1, keepdims=True))


def test_a_copied_text_gets_what_it_would_get_merged_with_its_frequency_as_reference():
    original = [0, 1, 2, 1, 1]
    p = games(5, 20, 3)
    copied, same = with_clones(p, original)
    found, reference = choices(PreferenceMatrix(copied), TAU), np.array([1, 3, 1]) / 5
    merged = {
        "NLHF": solve_nlhf(PreferenceMatrix(p), TAU, reference).policy,
        "SLHF Leader": solve_slhf(PreferenceMatrix(p), TAU, TAU, reference, reference).policy,
    }
    for name, policy in merged.items():
        totals = np.stack([found[name][:, np.array(original) == i].sum(-1) for i in range(3)], -1)
        assert np.allclose(totals, policy, atol=1e-9)
    assert np.array_equal(same[0], clones([[t] for t in "abcbb"])[0])


def test_agreement_is_the_share_of_games_with_the_same_text():
    same = clones([["a", "a", "a"], ["a", "b", "b"], ["b", "c", "c"]])
    one = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    other = np.array([[0, 1.0, 0], [0, 0.5, 0.5], [0, 1, 0]])  # the copy of "a"; half elsewhere; another text
    rows = {row["concept"]: row["agrees_with"] for row in agreements({"one": one, "other": other}, same)}
    assert rows["one"]["one"] == pytest.approx(1)
    assert rows["other"]["other"] == pytest.approx(1)
    assert rows["one"]["other"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert rows["other"]["one"] == pytest.approx(rows["one"]["other"])


def test_the_games_among_some_answers_are_the_blocks_of_the_matrix():
    p = games(6, 2, 5)
    part = among(PreferenceMatrix(p), [3, 1]).p
    assert np.array_equal(part[:, 0, 1], p[:, 3, 1])
    assert part.shape == (2, 2, 2)
