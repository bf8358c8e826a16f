"""How often each pair met: kept from counts, rankings and files, and what RLHF weights by, everywhere."""

from __future__ import annotations

import json
import pickle

import choix
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import log_expit

from slhf.errors import DisconnectedComparisons, InvalidParameter, MissingPair
from tabular import (
    RLHF,
    SLHF,
    PreferenceMatrix,
    Profile,
    flip_budgets,
    influence,
    rlhf_sensitivity,
    robustness,
    solve_nlhf,
    solve_rlhf,
    solve_slhf,
    worst_case,
)
from tabular.__main__ import main
from tabular.describe import describe
from tabular.rlhf import pair_weights_of

CHAIN = np.diag(np.full(3, 3.0), 1) + np.diag(np.full(3, 1.0), -1)
"""Four alternatives in a row; each beats the next 3 times of 4, and others never meet: rewards ln 3 apart."""


def random_counts(seed):
    """Sparse: about half of the pairs of 3 to 8 alternatives met, 1 to 20 times each."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    met = np.triu(rng.uniform(size=(n, n)) < rng.choice([0.4, 0.7]), 1) * rng.integers(1, 21, size=(n, n))
    won = rng.binomial(met, rng.uniform(0.1, 0.9, size=(n, n)))
    return (won + (met - won).T).astype(float)


def by_lbfgs(wins):
    """The maximum-likelihood rewards by another optimiser, of another way to write the likelihood."""
    i, j = np.nonzero(wins)

    def loss(r):
        difference = r[i] - r[j]
        slope = wins[i, j] * -np.exp(log_expit(-difference))
        gradient = np.bincount(i, slope, len(r)) - np.bincount(j, slope, len(r))
        return -wins[i, j] @ log_expit(difference), gradient

    found = minimize(loss, np.zeros(len(wins)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    return found.x - found.x.mean()


def test_the_fit_is_the_maximum_likelihood_of_200_sparse_tables_or_says_that_there_is_none():
    fitted = refused = missing = 0
    for seed in range(200):
        wins = random_counts(seed)
        P = PreferenceMatrix.from_counts(wins)
        count, _ = connected_components(wins > 0, connection="strong")
        if count > 1:
            refused += 1
            with pytest.raises(DisconnectedComparisons) as caught:
                solve_rlhf(P)
            assert len(caught.value.components) == count
            continue
        fitted += 1
        missing += not P.known.all()
        reward = solve_rlhf(P).reward
        data = [(i, j) for i, j in zip(*np.nonzero(wins), strict=True) for _ in range(int(wins[i, j]))]
        theirs = choix.opt_pairwise(len(wins), data, tol=1e-10)
        assert_allclose(reward, theirs - theirs.mean(), atol=2e-4)
        assert_allclose(reward, by_lbfgs(wins), atol=2e-4)
    assert fitted >= 60
    assert refused >= 40
    assert missing >= 40


def test_counts_are_weights_unless_equal_ones_are_asked_for():
    wins = np.array([[0.0, 40, 2], [20, 0, 30], [3, 30, 0]])
    P = PreferenceMatrix.from_counts(wins)
    assert_array_equal(P.counts, wins)
    assert_array_equal(P.pair_weights, wins + wins.T)
    assert_array_equal(solve_rlhf(P).reward, solve_rlhf(P, pair_weights=wins + wins.T).reward)
    equal = solve_rlhf(P, pair_weights="equal").reward
    assert_array_equal(equal, solve_rlhf(PreferenceMatrix(P.p)).reward)
    assert np.argmax(equal) != np.argmax(solve_rlhf(P).reward)
    with pytest.raises(InvalidParameter, match="pair_weights = 'even': give an"):
        solve_rlhf(P, pair_weights="even")


def test_a_pair_that_never_met_weighs_nothing_and_only_what_needs_it_asks_for_a_rule():
    P = PreferenceMatrix.from_counts(CHAIN, labels="ABCD")
    assert_allclose(solve_rlhf(P).reward, np.log(3) * np.array([1.5, 0.5, -0.5, -1.5]), atol=1e-9)
    for rule in (P, PreferenceMatrix.from_counts(CHAIN, "half")):
        assert_array_equal(solve_rlhf(rule).reward, solve_rlhf(P).reward)
    for needs in (solve_nlhf, solve_slhf, describe, lambda P: solve_rlhf(P, pair_weights="equal")):
        with pytest.raises(MissingPair, match=r"Never compared: Entry \(A, C\), Entry \(A, D\), Entry \(B, D\)\. "):
            needs(P)
    with pytest.raises(MissingPair):
        solve_rlhf(P, pair_weights=np.ones((4, 4)))
    assert_array_equal(P.known, (CHAIN + CHAIN.T > 0) | np.eye(4, dtype=bool))


def test_where_no_finite_reward_exists_the_groups_are_named():
    one_sided = np.diag(np.full(14, 2.0), 1)
    P = PreferenceMatrix.from_counts(one_sided)
    with pytest.raises(DisconnectedComparisons, match="no finite Bradley-Terry rewards") as caught:
        solve_rlhf(P)
    assert sorted(caught.value.components) == [(i,) for i in range(15)]
    assert np.all(np.diff(solve_rlhf(P, l2=0.1).reward) < 0)


def test_rankings_count_those_who_rank_both():
    P = PreferenceMatrix.from_rankings(["AB", "BCA", "CB"], [3, 2, 4], unranked="ignore")
    assert_array_equal(P.counts, [[0, 3, 0], [2, 0, 2], [2, 4, 0]])
    mixes = Profile(["ABC", "BCA", "CAB"], [4, 3, 2]).preferences([[1, 1, 1], [4, 3, 2]])
    assert_array_equal(mixes.pair_weights[:, 0, 1], [3, 9])


def test_win_rates_can_come_with_how_often_pairs_met():
    p, asked = [[0.5, 0.75, 0.4], [0.25, 0.5, 0.6], [0.6, 0.4, 0.5]], [[0, 4, 2], [4, 0, 10], [2, 10, 7]]
    P = PreferenceMatrix(p, pair_weights=asked)
    assert_allclose(P.pair_weights, np.array(asked) * (1 - np.eye(3)))
    assert_array_equal(solve_rlhf(P).reward, solve_rlhf(PreferenceMatrix(p), pair_weights=P.pair_weights).reward)
    for bad, message in (([[0, 1], [1, 0]], "broadcast"), ([[0, 1, 1], [2, 0, 1], [1, 1, 0]], "symmetric")):
        with pytest.raises(InvalidParameter, match=message):
            PreferenceMatrix(p, pair_weights=bad)
    with pytest.raises(InvalidParameter, match="not negative"):
        PreferenceMatrix(p, pair_weights=-np.array(asked))


def test_parts_copies_and_other_libraries_keep_the_counts():
    wins = np.stack([CHAIN, np.where(CHAIN > 0, CHAIN + 1, 0)])
    P = PreferenceMatrix.from_counts(wins, labels="ABCD")
    assert_array_equal(P.game(1).counts, wins[1])
    turned = P.among(["C", "A", 1])
    assert turned.labels == ("C", "A", "B")
    assert_array_equal(turned.counts, wins[:, [2, 0, 1]][..., [2, 0, 1]])
    assert P.among([0, 1]).p.shape == (2, 2, 2)  # A and B met
    with pytest.raises(MissingPair, match=r"\(C, A\)"):
        _ = turned.p
    with pytest.raises(InvalidParameter, match="choose among the alternatives"):
        P.among(["E"])
    tensor = PreferenceMatrix.from_counts(torch.tensor(wins), labels="ABCD")
    assert isinstance(tensor.pair_weights, torch.Tensor)
    assert_array_equal(tensor.numpy().counts, wins)
    assert_array_equal(solve_rlhf(tensor.numpy()).reward, solve_rlhf(P).reward)
    with pytest.raises(MissingPair):
        solve_slhf(tensor)
    assert_array_equal(pickle.loads(pickle.dumps(P)).counts, wins)
    with pytest.raises(ValueError, match="read-only"):
        P.counts[0, 0, 1] = 5
    assert "counts" in repr(P)


def test_what_perturbs_preferences_leaves_the_weights():
    wins = np.array([[0.0, 40, 2], [20, 0, 30], [3, 30, 0]])
    P, concepts = PreferenceMatrix.from_counts(wins, labels="ABC"), {"RLHF": RLHF(0.1)}
    assert_allclose(P.moved(np.stack([P.p, P.p.T])).pair_weights, np.stack([P.pair_weights] * 2))
    assert robustness.noise(P, concepts, [0.0], 2)["total_variation"].max() < 1e-9
    assert robustness.pair_weighting(P, concepts, [1e9], 2)["total_variation"].max() < 1e-3
    many = robustness.sampling(P, concepts, [10**8], 2)
    assert many["total_variation"].max() < 5e-3
    assert robustness.sampling(P, concepts, [10**8], 2, pair_weights="equal")["total_variation"].min() > 0.1
    dropped = robustness.dropped_pairs(P, concepts)
    weights = P.pair_weights.copy()
    weights[0, 2] = weights[2, 0] = 0
    row = dropped[(dropped["second"] == "C") & (dropped["first"] == "A") & (dropped["treatment"] == "weight 0")]
    expected = np.abs(solve_rlhf(P, pair_weights=weights).policy - solve_rlhf(P).policy).sum() / 2
    assert_allclose(row["total_variation"], [expected], atol=1e-9)
    assert worst_case(P, RLHF(0.1), 1e-9).total_variation < 1e-6
    assert (robustness.noise(P, {"SLHF": SLHF()}, [0.01], 3)["total_variation"] > 0).all()


def test_a_copy_meets_the_others_as_its_original_does():
    P = PreferenceMatrix.from_counts(np.array([[0.0, 40, 2], [20, 0, 30], [3, 30, 0]]), labels="ABC")
    game, original = robustness.copy_alternative(P, "A", 2)
    assert_allclose(game.pair_weights[1, [0, 3, 4]], [60] * 3)
    assert_allclose(game.pair_weights[0, [3, 4]], [(60 + 5) / 2] * 2)
    rewards = solve_rlhf(game).reward
    assert_allclose(rewards[[3, 4]], rewards[[0, 0]], atol=1e-9)
    assert_array_equal(original, [0, 1, 2, 0, 0])


def test_sensitivity_knows_the_counts_and_pairs_that_never_met_have_no_influence():
    P = PreferenceMatrix.from_counts(CHAIN, labels="ABCD")
    table = influence(P, rlhf_sensitivity(P, 0.5).policy)
    never = table["preference"].isna()
    assert never.sum() == 3
    assert (table["influence"][never] == 0).all()
    assert (table["influence"][~never] > 0).all()
    assert_array_equal(pair_weights_of(None, P), CHAIN + CHAIN.T)
    even = flip_budgets(PreferenceMatrix.from_counts(np.array([[0, 3, 4], [2, 0, 4], [1, 1, 0]])))
    assert even["answer"].tolist()[0] == "0"
    uneven = flip_budgets(PreferenceMatrix.from_counts(np.array([[0, 30, 4], [20, 0, 4], [1, 1, 0]])))
    assert uneven["answer"].tolist()[0] == ""
    assert np.isnan(uneven["budget"][0])


def solved(capsys, *argv):
    assert main(["solve", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def write(path, wins, names="ABCDEFGHIJKLMNO"):
    rows = [f"{names[i]},{names[j]},{wins[i, j]:g}" for i, j in zip(*np.nonzero(wins), strict=True)]
    path.write_text("\n".join(["winner,loser,count", *rows]) + "\n")
    return str(path)


def test_the_command_line_says_what_weighted_the_pairs(capsys, tmp_path):
    file = write(tmp_path / "c.csv", CHAIN)
    found = solved(capsys, file, "--concept", "RLHF")
    assert_allclose(found["reward"], np.log(3) * np.array([1.5, 0.5, -0.5, -1.5]), atol=1e-9)
    assert found["pair_weights"] == {"counts": file, "never_met": 3}
    assert main(["solve", file, "--concept", "rlhf"]) == 0
    assert "\npair weights: how often each pair met; 3 of 6 pairs never met and weigh 0" in capsys.readouterr().out
    for concept in ("nlhf", "slhf"):
        assert main(["solve", file, "--concept", concept]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {file}: Never compared: Entry (A, C), ")
        assert "(--missing half). Only RLHF does without them." in error
        assert main(["solve", file, "--concept", concept, "--missing", "half"]) == 0
        capsys.readouterr()
    assert main(["solve", file, "--concept", "rlhf", "--pair-weights", "equal"]) == 2
    assert "Never compared" in capsys.readouterr().err
    equal = solved(capsys, file, "--concept", "rlhf", "--pair-weights", "equal", "--missing", "half")
    assert equal["pair_weights"] == "equal"
    (tmp_path / "p.csv").write_text("A,B\n.5,.6\n.4,.5\n")
    assert main(["solve", str(tmp_path / "p.csv"), "--concept", "rlhf"]) == 0
    assert "p.csv does not say how often each pair met" in capsys.readouterr().out


def test_the_command_line_names_the_groups_of_a_one_sided_chain(capsys, tmp_path):
    file = write(tmp_path / "c.csv", np.diag(np.full(14, 2.0), 1))
    assert main(["solve", file, "--concept", "rlhf"]) == 2
    error = capsys.readouterr().err
    assert "no finite Bradley-Terry rewards" in error
    assert error.count("\n") == 1
    groups = error.partition("Groups: ")[2].partition(". ")[0]
    assert sorted(groups.split(" | ")) == list("ABCDEFGHIJKLMNO")
    assert "--l2" in error


@pytest.mark.parametrize(
    ("text", "order"),
    [
        (",A,B,C\nA,,1,2\nB,1,,3\nC,2,3,\n", "ABC"),
        (",C,A,B\nC,,2,3\nA,2,,1\nB,3,1,\n", "ABC"),
        ("B;C;A\n0;3;1\n3;0;2\n1;2;0\n", "ABC"),
        ("0,1,2\n1,0,3\n2,3,0\n", None),
    ],
)
def test_pair_weights_of_a_file_are_aligned_by_label(capsys, tmp_path, text, order):
    (tmp_path / "p.csv").write_text("A,B,C\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n")
    (tmp_path / "w.csv").write_text(text)
    arguments = ["solve", str(tmp_path / "p.csv"), "--concept", "rlhf", "--pair-weights", str(tmp_path / "w.csv")]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    P = PreferenceMatrix.load(tmp_path / "p.csv")
    expected = solve_rlhf(P, pair_weights=[[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert_allclose(json.loads(captured.out)["reward"], expected.reward, atol=1e-12)
    assert ("taken in the order A, B, C" in captured.err) == (order is None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A,B,D\n0,1,2\n1,0,3\n2,3,0\n", "is about A, B, D, but the preferences are about A, B, C"),
        ("A,B\n0,1\n1,0\n", "is about A, B, but"),
        ("0,1\n1,0\n", "has shape (2, 2) for 3 alternatives; give one row each"),
        ("A,B,C\n0,1,2\n1,0,3\n2,4,0\n", "must be symmetric"),
        ("A,B,C\n0,1,\n1,0,3\n,3,0\n", "entry (A, C) is blank; write 0 for a pair that was never compared"),
        ("[[1, 2, 3], [4, 5, 6]]", "has shape (2, 3) for 3 alternatives"),
        ('{"labels": ["A", "B", "C"], "p": [[1]]}', "has shape (1, 1) for 3 alternatives"),
        ("[1, 2, 3]", "has shape (3,) for 3 alternatives"),
        ("winner,loser\nA,B\n", "must hold a square matrix"),
    ],
)
def test_pair_weights_about_something_else_are_refused(capsys, tmp_path, text, message):
    (tmp_path / "p.csv").write_text("A,B,C\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n")
    weights = tmp_path / ("w.json" if text[0] in "[{" else "w.csv")
    weights.write_text(text)
    arguments = ["solve", str(tmp_path / "p.csv"), "--concept", "rlhf", "--pair-weights", str(weights)]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
