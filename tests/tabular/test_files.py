"""Matrices as people have them: each read, with what was assumed in the notes, or refused with the place and advice."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidData, InvalidParameter, InvalidPreferences
from tabular import PreferenceMatrix
from tests.tabular.strategies import CONDORCET

GOOD = CONDORCET.p
SEMICOLONS, TABS, SPACES = (f"cells are separated by {name}" for name in ("semicolons", "tabs", "spaces"))
DECIMAL = "commas in numbers are decimal commas"
DIAGONAL = "the blank diagonal is 1/2"
ABOVE, BELOW = (
    f"the numbers {side} the diagonal say the others: p(j > i) = 1 - p(i > j)" for side in ("above", "below")
)
INDEX = "the first column, 0 to 2, is an index and was left out"
ORDER = "the rows are in another order than the columns of line 1, and were put in that"
TRAILING = "blank columns at the end were left out"
PERCENT = "numbers with % are percentages, divided by 100"


def save(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


FRAME = pd.DataFrame(GOOD, index=list("ABC"), columns=list("ABC"))

READ = {
    "numbers": (".5,.65,.4\n.35,.5,.75\n.6,.25,.5\n", None, []),
    "a header": ("A, B, C\n.5,.65,.4\n.35,.5,.75\n\n.6,.25,.5\n", "ABC", []),
    "header and names": (",A,B,C\nA,.5,.65,.4\nB,.35,.5,.75\nC,.6,.25,.5\n", "ABC", []),
    "names": ("\ufeffA,.5,.65,.4\nB,.35,.5,.75\nC,.6,.25,.5\n", "ABC", []),
    "a header one short, as of R": ('"A" "B" "C"\n"A" .5 .65 .4\n"B" .35 .5 .75\n"C" .6 .25 .5\n', "ABC", [SPACES]),
    "of numpy.savetxt": ("5e-1 6.5e-1 4e-1\n3.5e-1 5e-1 7.5e-1\n6e-1 2.5e-1 5e-1\n", None, [SPACES]),
    "semicolons": ("A;B;C\n.5;.65;.4\n.35;.5;.75\n.6;.25;.5\n", "ABC", [SEMICOLONS]),
    "decimal commas": ("A;B;C\n0,5;0,65;0,4\n0,35;0,5;0,75\n0,6;0,25;0,5\n", "ABC", [SEMICOLONS, DECIMAL]),
    "only decimal commas": ("0,5;0,65;0,4\n0,35;0,5;0,75\n0,6;0,25;0,5\n", None, [SEMICOLONS, DECIMAL]),
    "tabs": ("\tA\tB\tC\nA\t.5\t.65\t.4\nB\t.35\t.5\t.75\nC\t.6\t.25\t.5\n", "ABC", [TABS]),
    "a pandas index": (FRAME.reset_index(drop=True).to_csv(), "ABC", [INDEX]),
    "a named index": ("id" + FRAME.reset_index(drop=True).to_csv(), "ABC", [INDEX]),
    "of pandas": (FRAME.to_csv(), "ABC", []),
    "rows in another order": (FRAME.loc[list("CAB")].to_csv(), "ABC", [ORDER]),
    "names that look like numbers": (",1,2,3\n1,.5,.65,.4\n2,.35,.5,.75\n3,.6,.25,.5\n", "123", []),
    "a header of numbers": ("1,2,3\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n", "123", ["line 1 holds the names 1, 2, 3"]),
    "names of numbers": ("7,.5,.65,.4\n8,.35,.5,.75\n9,.6,.25,.5\n", "789", []),
    "versions as names": (",3.5,4,4.1\n3.5,.5,.65,.4\n4,.35,.5,.75\n4.1,.6,.25,.5\n", ["3.5", "4", "4.1"], []),
    "a semicolon in a name": ("a;x,B,C\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n", ["a;x", "B", "C"], []),
    "an upper triangle": (",A,B,C\nA,.5,.65,.4\nB,,.5,.75\nC,,,.5\n", "ABC", [ABOVE]),
    "a lower triangle": (".5,,\n.35,.5,\n.6,.25,.5\n", None, [BELOW]),
    "an upper triangle, nothing else": (",.65,.4\n,,.75\n,,\n", None, [DIAGONAL, ABOVE]),
    "an upper triangle below names": ("A,B,C\n,.65,.4\n,,.75\n,,\n", "ABC", [DIAGONAL, ABOVE]),
    "dashes": ("A,B,C\n-,.65,.4\n-,–,.75\n—,-,n/a\n", "ABC", [DIAGONAL, ABOVE]),
    "a blank diagonal": ("A,B,C\n,.65,.4\n.35,,.75\n.6,.25,\n", "ABC", [DIAGONAL]),
    "percent signs": ("A,B,C\n50%,65%,40 %\n35%,50%,75%\n60%,25%,50%\n", "ABC", [PERCENT]),
    "trailing commas": ("A,B,C,\n.5,.65,.4,\n.35,.5,.75,\n.6,.25,.5,\n", "ABC", [TRAILING]),
    "blank rows at the end": ("A,B,C\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n,,\n,,\n", "ABC", []),
    "comments": ("# mine\nA,B,C\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n", "ABC", ["line 1 is a comment and was left out"]),
    "names with #": ("#1,#2,#3\n.5,.65,.4\n.35,.5,.75\n.6,.25,.5\n", ["#1", "#2", "#3"], []),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_a_table_is_read_and_what_was_assumed_is_said(tmp_path, case):
    text, labels, notes = READ[case]
    P = PreferenceMatrix.load(save(tmp_path, "p.csv", text))
    assert_allclose(P.p, GOOD, atol=1e-15)
    assert P.labels == tuple(labels or "012")
    assert list(P.notes) == notes
    assert P.counts is None


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("p.csv", FRAME.to_csv().encode("utf-16"), None),
        ("p.csv", FRAME.to_csv().encode("utf-8-sig"), None),
        ("p.csv", FRAME.to_csv().replace("\n", "\r\n").encode(), None),
        ("p.csv.gz", gzip.compress(FRAME.to_csv().encode(), mtime=0), None),
        ("p.tsv", FRAME.to_csv(sep="\t"), None),
        ("p.txt", FRAME.to_csv(sep="\t"), TABS),
        ("p.CSV", FRAME.to_csv(), None),
        ("p.csv", FRAME.to_csv().replace("A", "é").encode("latin-1"), "the text is not UTF-8"),
        ("p.json", FRAME.to_json(orient="split"), None),
        ("p.json", FRAME.to_json(orient="records"), None),
        ("p.json", FRAME.reset_index().to_json(orient="records"), None),
        ("p.json", "\ufeff" + json.dumps({"labels": ["A", "B", "C"], "p": GOOD.tolist()}), None),
        ("p.json", '{"labels":["A","B","C"],"p":[[null, 0.65, 0.4], [null, 0.5, 0.75], [null, NaN, 0.5]]}', DIAGONAL),
        ("p.json.gz", gzip.compress(json.dumps({"labels": list("ABC"), "p": GOOD.tolist()}).encode(), mtime=0), None),
        ("p.jsonl", FRAME.to_json(orient="records", lines=True), None),
    ],
)  # fmt: skip
def test_files_of_every_encoding_and_kind(tmp_path, name, content, note):
    P = PreferenceMatrix.load(save(tmp_path, name, content))
    assert_allclose(P.p, GOOD, atol=1e-15)
    assert P.labels in {("A", "B", "C"), ("é", "B", "C")}
    assert [text for text in P.notes if note and text.startswith(note)] == list(P.notes)[: note is not None]


def test_npy_of_any_precision(tmp_path):
    assert_array_equal(PreferenceMatrix.load(save(tmp_path, "p.npy", npy(np.stack([GOOD, GOOD.T])))).p, [GOOD, GOOD.T])
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        upper = np.triu(rng.uniform(size=(30, 30)), 1).astype(dtype)
        p = (upper + np.tril(1 - upper.T, -1) + np.eye(30, dtype=dtype) / dtype(2)).astype(dtype)
        P = PreferenceMatrix.load(save(tmp_path, "p.npy.gz", gzip.compress(npy(p), mtime=0)))
        assert_allclose(P.p, p, atol=float(np.finfo(dtype).eps))
        assert P.notes[0].startswith(f"{np.dtype(dtype)} numbers: p(i > j) + p(j > i) missed 1 by up to ")
        with pytest.raises(InvalidPreferences, match="symmetrise=True"):
            PreferenceMatrix.load(save(tmp_path, "p.npy", npy(p.astype(np.float64))))


def test_tables_rounded_to_two_decimals_are_loaded_only_when_asked(tmp_path):
    file = save(tmp_path, "p.csv", "A,B,C\n.5,.67,.5\n.34,.5,.5\n.5,.5,.5\n")
    with pytest.raises(InvalidPreferences, match=r"\(A, B\) = 0.67: P\[j, i\] = 0.34 .*rounding.*symmetrise=True"):
        PreferenceMatrix.load(file)
    P = PreferenceMatrix.load(file, symmetrise=True)
    assert_allclose(P.p[0, 1], 0.665)
    assert P.notes == ("p(i > j) + p(j > i) missed 1 by up to 0.01, and both took half of that",)
    with pytest.raises(InvalidPreferences, match=r"\(A, B\) = 0.9: P\[j, i\] = 0.34 .*correct one of them"):
        PreferenceMatrix.load(save(tmp_path, "p.csv", "A,B\n.5,.9\n.34,.5\n"), symmetrise=True)
    percent = save(tmp_path, "p.csv", "A,B\n50,67\n34,50\n")
    assert_allclose(PreferenceMatrix.load(percent, percent=True, symmetrise=True).p[0, 1], 0.665)


@pytest.mark.parametrize(
    ("name", "text", "notes"),
    [
        ("p.csv", "A,B,C\n0,6,3\n4,0,1\n2,0,0\n", []),
        ("p.csv", "A,B,C\n,6,3\n4,,1\n2,,\n", ["1 blank cells are 0 wins"]),
        ("p.tsv", "A\tB\tC\n-\t6\t3\n4\t-\t1\n2\t0\t-\n", []),
        ("p.json", "[[0, 6, 3], [4, 0, 1], [2, 0, 0]]", []),
        ("p.json", '{"wins": [[null, 6, 3], [4, null, 1], [2, 0, null]]}', []),
        ("p.npy", npy(np.array([[0, 6, 3], [4, 0, 1], [2, 0, 0]])), []),
    ],
)
def test_matrices_of_counts(tmp_path, name, text, notes):
    P = PreferenceMatrix.load(save(tmp_path, name, text), counts=True)
    assert_array_equal(P.counts, [[0, 6, 3], [4, 0, 1], [2, 0, 0]])
    assert list(P.notes) == notes


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ('A,B\n0,"1,234"\n"2,345,678",0\n', ["commas in numbers part thousands"]),
        ("A;B\n0;1 234\n2 345 678;0,0\n", [SEMICOLONS, DECIMAL, "spaces or apostrophes in numbers part thousands"]),
        ("A;B\n0;1.234\n2.345.678;0,0\n", [SEMICOLONS, DECIMAL]),
        ("A,B\n0,1'234\n2'345'678,0\n", ["spaces or apostrophes in numbers part thousands"]),
        ("A;B\n0;1\u00a0234\n2\u202f345\u202f678;0\n", [SEMICOLONS, "spaces or apostrophes in numbers part thousands"]),
    ],
)
def test_thousands(tmp_path, text, notes):
    P = PreferenceMatrix.load(save(tmp_path, "p.csv", text), counts=True)
    assert_array_equal(P.counts, [[0, 1234], [2345678, 0]])
    assert list(P.notes) == notes


def test_percentages(tmp_path):
    for text in ("A,B\n50,60\n40,50\n", "A,B\n,60\n40,\n", "A,B\n50%,60%\n40%,50%\n"):
        P = PreferenceMatrix.load(save(tmp_path, "p.csv", text), percent=True)
        assert_allclose(P.p, [[0.5, 0.6], [0.4, 0.5]])
        assert any("percentages, divided by 100" in note for note in P.notes)


REFUSED = [
    ("p.csv", "A,B\n.5,x\n.5,.5\n", "line 2, column 2: 'x' is not a number"),
    ("p.csv", "a,.5,.5\nb,.5,y\n", "line 2, column 3: 'y' is not a number"),
    ("p.csv", ".5,x\n.4,.5\n", "line 1, column 2: 'x' is not a number"),
    ("p.csv", "# c\n\n.5,.5\n.5\n", "line 4 has 1 of the 2 cells that line 3 has"),
    ("p.csv", "A;B\n.5;.5\n.5\n", "line 3 has 1 of the 2 cells that line 2 has"),
    ("p.csv", ",A,B\nA,.5,.5\nC,.5,.5\n", "which no row is about; the row 'C' is not among the columns"),
    ("p.csv", ",A,B,C\nA,.5,.65,.4\nC,.35,.5,.75\n", "line 1 names 'B', which no row is about"),
    ("p.csv", "A,B,C\n0.5,.65,.4\n0.3,.5,.7\n", "3 columns (A, B, C) but 2 rows of numbers, from line 2 on; a row"),
    ("p.csv", ",A,B,mean\nA,.5,.6,.55\nB,.4,.5,.45\n", "line 1 names 'mean', which no row is about"),
    ("p.csv", "\n", "is empty"),
    ("p.csv", "A,B,C\n", "holds names but no rows below them"),
    ("p.csv", ".1,.5,.6\n.2,.4,.5\n", "has 3 columns but 2 rows of numbers, from line 1 on; a row is missing"),
    ("p.csv", ".5,.6\n.4,.5\n.3,.2\n", "has 2 columns but 3 rows of numbers, from line 1 on; a column is missing"),
    ("p.csv", "A,B,3\nB,C,2\nA,C,1\nC,D,5\n", "its first row is 'A, B, 3'. What is read is a square matrix"),
    ("p.csv", "hello\nworld\n", "is no table of numbers; its first row is 'hello'. What is read is a square matrix"),
    ("p.csv", ",A,B\nA,.5,.6\nB,.4,\"x\"y\n", "line 3: ',' expected after"),
    ("p.csv", "A,B\n.5,inf\n.5,.5\n", "line 2, column 2: 'inf' is not a number"),
    ("p.csv", ".5,.6,.7\n.4,.5,\n.3,.2,.5\n", "entry (1, 2) is blank; write both"),
    ("p.csv", "A,B\n50%,60%\n40,50%\n", "line 3, column 1: '40' has no %"),
    ("p.csv", "A,A\n.5,.6\n.4,.5\n", "label 'A' is used 2 times"),
    ("p.csv", "A,B\n50,60\n40,50\n", "(A, A) = 50.0: a preference is a probability in [0, 1]; divide percentages"),
    ("p.csv", "A,B\n0,6\n4,0\n", "(A, B) = 6.0: a preference is a probability in [0, 1]"),
    ("p.csv", "A,B\n0,.6\n.4,0\n", "(A, A) = 0.0: the diagonal must be 1/2: nothing beats itself (a file may leave"),
    ("p.csv", "A,B\n.5,.7\n.7,.5\n", "(A, B) = 0.7: P[j, i] = 0.7 and the two must sum to 1; correct one"),
    ("p.csv", b"\xff\xfe\xff", "line 1: byte 2 (0xff) is not text in UTF-16-LE"),
    ("p.csv.gz", b"A,B\n", "is not compressed with gzip"),
    ("p.json", "{", "line 1, column 2"),
    ("p.jsonl", '{"A": 1}\n{"A"', "line 2, column 5"),
    ("p.json", "{}", 'without the key "p"'),
    ("p.json", FRAME.to_json(), "holds an object with the keys 'A', 'B', 'C', without the key \"p\""),
    ("p.json", "[]", "is empty"),
    ("p.json", "\n", "is empty"),
    ("p.json", "[" * 5000, "line 1: is nested too deeply"),
    ("p.jsonl", "{}\n{}\n", "its objects are empty"),
    ("p.json", "3", "holds 3; what is read is a square matrix"),
    ("p.json", '[{"A": 1}, 2]', "item 2 is 2; all must be objects, or all lists"),
    ("p.json", '{"columns": 3, "data": 4}', '"index" must be lists'),
    ("p.json", '{"columns": ["A", "B"], "index": [0], "data": [[1, 2], [3, 4]]}', '"data" as many lists'),
    ("p.json", "[[0.5, 1], [0]]", "rows equally long"),
    ("p.json", '[[0.5, "0.4"], [0.6, 0.5]]', "nested lists of numbers"),
    ("p.json", '{"p": [[0.5]], "labels": [1]}', "list of strings"),
    ("p.npy", "nonsense", "is not a .npy file"),
    ("p.npy", npy(np.array(["a"])), "not a .npy array of numbers"),
    ("p.npy", npy(np.zeros(3)), "p has shape (3,)"),
    ("p.xlsx", "", "unknown kind of file '.xlsx'; use one of .csv, .tsv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_what_cannot_be_read_is_one_line_with_the_file_and_the_place(tmp_path, name, content, message):
    file = save(tmp_path, name, content)
    with pytest.raises((InvalidData, InvalidPreferences)) as caught:
        PreferenceMatrix.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A;B\n0;1,234\n2,345;0\n", "line 2, column 2: '1,234' may be 1234 or 1.234; write one"),
        ("A;B\n0;1.234\n2.345;0\n", "line 2, column 2: '1.234' may be 1234 or 1.234; write one"),
        ("A\tB\n0\t1,234\n2,345\t0\n", "line 2, column 2: '1,234' may be 1234 or 1.234; write one"),
        ("A,B\n1,234,5\n4,0\n", "line 3 has 2 of the 3 cells that line 2 has"),
        (",5,3\n5,,2\n3,2,\n", "line 1 and the first column hold the same numbers, which may be names or counts"),
        ("A,B,C\n,60,3\n,,4\n,,\n", "entry (B, A) is blank; counts need both triangles"),
        ("0,6\n0,4\n3,0\n", "has 3 rows of 2 numbers; if line 1 holds names, name the rows too"),
        ("A,B\n60%,\n,5%\n", "numbers with % are no counts"),
        ("A,B\n1,2\n3,4\n", "(A, A) = 1.0: an alternative cannot beat itself"),
        ("A,B\n0,-2\n3,0\n", "(A, B) = -2.0: a count must be finite and not negative"),
    ],
)
def test_counts_that_are_unclear_are_refused(tmp_path, text, message):
    with pytest.raises((InvalidData, InvalidPreferences)) as caught:
        PreferenceMatrix.load(save(tmp_path, "p.csv", text), counts=True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ties": "half"}, 'ties="half" has no meaning for .*, which holds a matrix; drop it'),
        ({"unranked": "bottom"}, 'unranked="bottom" has no meaning for .*, which holds a matrix'),
        ({"counts": True, "percent": True}, "percent=True has no meaning for .*, which holds counts"),
        ({"counts": True, "symmetrise": True}, "symmetrise=True has no meaning for .*, which holds counts"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, options, what):
    with pytest.raises(InvalidParameter, match=what):
        PreferenceMatrix.load(save(tmp_path, "p.csv", "A,B\n.5,.6\n.4,.5\n"), **options)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidData, match=r"gone.csv: cannot be read: No such file"):
        PreferenceMatrix.load(tmp_path / "gone.csv")
