"""PreferenceMatrix: what it accepts, what it refuses and what it says then, and its constructors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidData, InvalidPreferences, MissingPair
from tabular import PreferenceMatrix
from tests.tabular.strategies import CONDORCET, examples, games, policies, seeds

GOOD = CONDORCET.p


def changed(index, value):
    p = np.stack([GOOD, GOOD])
    p[index] = value
    return p


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.zeros((0, 0)), r"shape \(0, 0\)"),
        ([[0.5, "x"], [0.5, 0.5]], "array of numbers"),
        (changed((1, 0, 2), np.nan), r"Game \(1,\), entry \(A, C\) = nan: .* finite"),
        (changed((1, 0, 1), 1.5), r"Game \(1,\), entry \(A, B\) = 1.5: .*\[0, 1\]"),
        (changed((0, 2, 2), 0.4), r"Game \(0,\), entry \(C, C\) = 0.4: the diagonal"),
        (changed((1, 1, 2), 0.8), r"Game \(1,\), entry \(B, C\) = 0.8: .*0.25 .* sum to 1"),
    ],
)
def test_a_bad_matrix_is_refused_with_its_place(p, message):
    with pytest.raises(InvalidPreferences, match=message):
        PreferenceMatrix(p, "ABC" if np.shape(p)[-1:] == (3,) else None)


def test_one_game_is_named_without_a_batch_index():
    with pytest.raises(InvalidPreferences, match=r"^Entry \(B, C\)"):
        PreferenceMatrix(changed((1, 1, 2), 0.8)[1], "ABC")


@pytest.mark.parametrize(
    ("labels", "message"), [("AB", "2 labels"), ("AAB", "'A' is used 2"), (["A", "", "B"], "empty")]
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(InvalidPreferences, match=message):
        PreferenceMatrix(GOOD, labels)


def test_it_is_a_read_only_copy():
    source = GOOD.copy()
    P = PreferenceMatrix(source)
    source[0, 1] = 7
    assert_array_equal(P.p, GOOD)
    assert P.labels == ("0", "1", "2")
    with pytest.raises(ValueError, match="read-only"):
        P.p[0, 1] = 0
    with pytest.raises(AttributeError):
        P.p = GOOD


@examples()
@given(P=games(), seed=seeds)
def test_round_trips_through_counts_and_margins(P, seed):
    assert_allclose(P.p + np.swapaxes(P.p, -1, -2), np.ones_like(P.p), atol=1e-15)
    assert_array_equal(P.margins, -np.swapaxes(P.margins, -1, -2))
    assert_allclose(PreferenceMatrix.from_margins(P.margins).p, P.p, atol=1e-15)
    upper = np.triu(np.random.default_rng(seed).integers(1, 50, size=P.p.shape), 1)
    compared = upper + np.swapaxes(upper, -1, -2)  # how often each pair met
    assert_allclose(PreferenceMatrix.from_counts(compared * P.p).p, P.p, atol=1e-15)
    assert P.batch_shape == P.p.shape[:-2]


@examples()
@given(P=games())
def test_prefer_is_the_expected_preference(P):
    policy = policies(P.p.shape[:-1], 0)
    assert_allclose(P.prefer(policy), np.einsum("...ij,...j->...i", P.p, policy), atol=1e-15)
    assert_allclose(np.sum(policy * P.prefer(policy), -1), np.full(P.batch_shape, 0.5))


def test_counts():
    wins = np.array([[0, 3, 0], [1, 0, 2], [0, 2, 0]])
    with pytest.raises(MissingPair, match=r"\(A, C\)\. Collect"):
        _ = PreferenceMatrix.from_counts(wins, labels="ABC").p
    assert_allclose(
        PreferenceMatrix.from_counts(wins, missing="half").p, [[0.5, 0.75, 0.5], [0.25, 0.5, 0.5], [0.5, 0.5, 0.5]]
    )
    with pytest.raises(InvalidPreferences, match=r"\(A, B\) = -1.0: a count"):
        PreferenceMatrix.from_counts([[0, -1], [1, 0]], labels="AB")
    with pytest.raises(InvalidPreferences, match="beat itself"):
        PreferenceMatrix.from_counts([[1, 1], [1, 0]])
    with pytest.raises(InvalidPreferences, match="choose"):
        PreferenceMatrix.from_counts(wins, missing="zero")


def test_complete_rankings_with_weights_and_ties():
    P = PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"], [4, 3.5, 2.5])
    assert_allclose(P.p, GOOD)
    tied = PreferenceMatrix.from_rankings([[0, {1, 2}], [(2, 1), 0]], [3, 1])
    assert tied.labels == ("0", "1", "2")
    assert_allclose(tied.p, [[0.5, 0.75, 0.75], [0.25, 0.5, 0.5], [0.25, 0.5, 0.5]])


def test_partial_rankings_need_a_rule():
    rankings = ["AB", "BCA"]
    with pytest.raises(InvalidPreferences, match=r"Ranking 0 leaves out \['C'\].*ignore.*bottom"):
        PreferenceMatrix.from_rankings(rankings)
    ignored = PreferenceMatrix.from_rankings(rankings, unranked="ignore")
    assert_allclose(ignored.p, [[0.5, 0.5, 0], [0.5, 0.5, 1], [1, 0, 0.5]])
    bottom = PreferenceMatrix.from_rankings(rankings, unranked="bottom")
    assert_allclose(bottom.p, [[0.5, 0.5, 0.5], [0.5, 0.5, 1], [0.5, 0, 0.5]])
    two_last = PreferenceMatrix.from_rankings(["A"], unranked="bottom", labels="ABC")
    assert_allclose(two_last.p, [[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    with pytest.raises(MissingPair, match=r"\(A, C\)"):
        _ = PreferenceMatrix.from_rankings(["AB", "BC"], unranked="ignore").p
    assert PreferenceMatrix.from_rankings(["AB", "BC"], unranked="ignore", missing="half").p[0, 2] == 0.5


@pytest.mark.parametrize(
    ("rankings", "options", "message"),
    [
        ([], {}, "no rankings"),
        (["ABD"], {"labels": "ABC"}, "Ranking 0 names 'D'"),
        (["AB", "ABA"], {}, "Ranking 1 lists 'A' 2 times"),
        (["AB"], {"weights": [1, 2]}, r"shape \(2,\) for 1 rankings"),
        (["AB", "BA"], {"weights": [1, -2]}, r"weights\[1\] = -2"),
        ([["A", 1]], {}, "pass labels"),
    ],
)
def test_bad_rankings_are_refused(rankings, options, message):
    with pytest.raises(InvalidPreferences, match=message):
        PreferenceMatrix.from_rankings(rankings, **options)


def test_margins_and_bradley_terry():
    with pytest.raises(InvalidPreferences, match="antisymmetric"):
        PreferenceMatrix.from_margins([[0, 0.2], [0.2, 0]])
    with pytest.raises(InvalidPreferences, match=r"\[0, 1\]"):
        PreferenceMatrix.from_margins([[0, 0.7], [-0.7, 0]])
    for rewards in ([0, np.inf], [0, np.nan], 1.0):
        with pytest.raises(InvalidPreferences, match="finite rewards"):
            PreferenceMatrix.bradley_terry(rewards)
    P = PreferenceMatrix.bradley_terry([[0, np.log(3)], [0, 0]], labels="AB")
    assert_allclose(P.p, [[[0.5, 0.25], [0.75, 0.5]], [[0.5, 0.5], [0.5, 0.5]]])


def test_missing_files_and_bad_matrices_are_named(tmp_path):
    with pytest.raises(InvalidData, match=r"gone.csv: cannot be read: No such file"):
        PreferenceMatrix.load(tmp_path / "gone.csv")
    (tmp_path / "p.csv").write_text("A,B\n.5,.7\n.7,.5\n")
    with pytest.raises(InvalidPreferences, match=r"p.csv: Entry \(A, B\) = 0.7"):
        PreferenceMatrix.load(tmp_path / "p.csv")
