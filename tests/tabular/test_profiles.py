"""Profiles, PrefLib files and comparisons: what they mean, and how their errors name the place."""

from __future__ import annotations

import pytest
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidData, InvalidPreferences, MissingPair
from tabular import PreferenceMatrix, Profile
from tests.tabular.strategies import CONDORCET

HEADER = """\
# FILE NAME: example
# NUMBER ALTERNATIVES: 3
# NUMBER VOTERS: 20
# NUMBER UNIQUE ORDERS: 3
# ALTERNATIVE NAME 1: A
# ALTERNATIVE NAME 2: B, the second: best
# ALTERNATIVE NAME 3: C
"""
ORDERS = "8: 1,2,3\n7: 2,3,1\n5: 3,1,2\n"


def write(tmp_path, name, text):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_reweighting():
    profile = Profile(["ABC", "BCA", "CAB"], [0.4, 0.35, 0.25])
    assert_allclose(profile.preferences().p, CONDORCET.p)
    mixes = profile.preferences([[0.4, 0.35, 0.25], [1, 0, 0]])
    assert_allclose(mixes.p, [CONDORCET.p, [[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]]])
    assert mixes.labels == ("A", "B", "C")
    assert str(profile) == "0.4: A > B > C\n0.35: B > C > A\n0.25: C > A > B"
    with pytest.raises(ValueError, match="read-only"):
        profile.weights[0] = 1
    with pytest.raises(InvalidPreferences, match=r"weights\[1, 0\] = -1"):
        profile.preferences([[1, 1, 1], [-1, 1, 1]])
    with pytest.raises(MissingPair):
        _ = profile.preferences([0, 0, 0]).p


@pytest.mark.parametrize(
    ("rankings", "weights", "message"),
    [
        (["ABA"], None, "lists 'A' 2 times"),
        (["AB", "A"], None, "leaves out"),
        (["AB", "BA"], [1], "shape"),
        (["AB"], [[1]], "one weight per ranking"),
        ([], None, "no rankings"),
    ],
)
def test_bad_profiles_are_refused_at_once(rankings, weights, message):
    with pytest.raises(InvalidPreferences, match=message):
        Profile(rankings, weights)


def test_complete_orders(tmp_path):
    file = write(tmp_path, "p.soc", HEADER + ORDERS)
    P = PreferenceMatrix.from_preflib(file)
    assert_allclose(P.p, CONDORCET.p)
    assert P.labels == ("A", "B, the second: best", "C")
    assert_array_equal(PreferenceMatrix.load(file).p, P.p)
    profile = Profile.from_preflib(str(file))
    assert profile.weights.tolist() == [8, 7, 5]
    assert_array_equal(profile.preferences().p, P.p)


def test_ties_and_incomplete_orders(tmp_path):
    tied = PreferenceMatrix.from_preflib(write(tmp_path, "p.toc", HEADER + "8: 1,{2, 3}\n7: {1,2,3}\n5: 3,{1},2\n"))
    assert_allclose(tied.p[0], [0.5, 16.5 / 20, 11.5 / 20])
    assert_allclose(tied.p[1, 2], 7.5 / 20)
    partial = write(tmp_path, "p.soi", HEADER + "8: 1\n7: 2,3,1\n5: 3,1\n")
    assert_allclose(PreferenceMatrix.load(partial, unranked="bottom").p[0], [0.5, 13 / 20, 8 / 20])
    ignored = PreferenceMatrix.from_preflib(partial, unranked="ignore")
    assert_allclose(ignored.p[0], [0.5, 0, 0])
    with pytest.raises(InvalidPreferences, match=r"p\.soi: Ranking 0 leaves out .*unranked"):
        PreferenceMatrix.from_preflib(partial)
    with pytest.raises(InvalidPreferences, match=r"p\.soi: Ranking 0"):
        Profile.from_preflib(partial)
    never = write(tmp_path, "q.toi", HEADER + "8: {1,2}\n7: 2,1\n5: 1\n")
    with pytest.raises(MissingPair, match=r"q\.toi: Never compared"):
        _ = PreferenceMatrix.load(never, unranked="ignore").p
    assert PreferenceMatrix.load(never, unranked="ignore", missing="half").p[0, 2] == 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.soc", HEADER + "8: 1,2,4\n", r"p\.soc: line 8: field order, place 3: '4' is not .* from 1 to 3"),
        ("p.soc", HEADER + "8: 1,2,2\n", "line 8: field order, place 3: alternative 2 comes twice"),
        ("p.soc", HEADER + "8: 1,{2,3}\n", r"line 8: field order, place 2: \{2,3\} is a tie, but \.soc"),
        ("p.soc", HEADER + "8: 1,2\n", r"line 8: field order: ranks 2 of 3 .* name it \.soi"),
        ("p.toc", HEADER + "8: 1,{2,3\n", r"line 8: field order, place 2: '\{' is not"),
        ("p.toc", HEADER + "8: 1,{},2,3\n", r"place 2: '\{\}' is not"),
        ("p.soc", HEADER + "1,2,3\n", "line 8: field count"),
        ("p.soc", HEADER.replace("# NUMBER VOTERS: 20\n", "") + "0: 1,2,3\n" * 3, "no order has a voter"),
        ("p.soc", HEADER + "x: 1,2,3\n", "line 8: field count: 'x: 1,2,3'"),
        ("p.soc", HEADER + ORDERS.replace("5", "6"), "line 3: field NUMBER VOTERS is 20, but the orders below make 21"),
        ("p.soc", HEADER.replace("ORDERS: 3", "ORDERS: 4") + ORDERS, "line 4: field NUMBER UNIQUE ORDERS is 4"),
        ("p.soc", HEADER.replace("VES: 3", "VES: three") + ORDERS, "line 2: field NUMBER ALTERNATIVES is 'three'"),
        ("p.soc", HEADER.replace("VES: 3", "VES: 4") + ORDERS, "field ALTERNATIVE NAME 4 is missing"),
        ("p.soc", HEADER.replace("3: C", "3: A") + ORDERS, 'line 7: field ALTERNATIVE NAME 3 repeats the name "A"'),
        ("p.soc", "3\n1,A\n2,B\n3,C\n", "before 2022, but behind 3 names there is no line 'voters"),
        ("p.soc", "\n".join(HEADER.splitlines()[1:2] + HEADER.splitlines()[4:]), "holds no orders"),
        ("p.soc", b"\xff\xfe", "no PrefLib file"),
    ],
)  # fmt: skip
def test_bad_preflib_files_are_named(tmp_path, name, text, message):
    with pytest.raises(InvalidData, match=message):
        PreferenceMatrix.load(write(tmp_path, name, text))


def test_preflib_by_another_name_is_refused(tmp_path):
    with pytest.raises(InvalidData, match=r"unknown kind of file '\.txt' for orders; use one of \.soc"):
        PreferenceMatrix.from_preflib(write(tmp_path, "p.txt", HEADER + ORDERS))
    with pytest.raises(InvalidData, match=r"gone\.soc: cannot be read"):
        PreferenceMatrix.load(tmp_path / "gone.soc")
