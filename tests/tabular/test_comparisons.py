"""Who beat whom, as people have it: comparisons and battles, as tables and as JSON."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from slhf.errors import InvalidData, InvalidParameter, MissingPair
from tabular import PreferenceMatrix
from tabular.__main__ import main
from tests.tabular.test_files import save

WINS = [[0, 3, 0.5], [1, 0, 4], [0.5, 0, 0]]
ROWS = "winner,loser,count\nB,A,1\nA,B,2\n A , C ,0.5\n\nC,A,.5\nA,B,1\nB,C,4\n"
RECORDS = [
    {"winner": w, "loser": loser, "count": c, "turn": None}
    for w, loser, c in [("B", "A", 1), ("A", "B", 3), ("A", "C", 0.5), ("C", "A", 0.5), ("B", "C", 4)]
]


@pytest.mark.parametrize(
    ("name", "content", "notes"),
    [
        ("c.csv", ROWS, []),
        ("c.csv", ROWS.replace("winner,loser,count", "Winner,LOSER, Weight"), []),
        ("c.tsv", ROWS.replace(",", "\t"), []),
        ("c.csv.gz", gzip.compress(ROWS.encode("utf-16"), mtime=0), []),
        ("c.csv", "loser;count;winner\nA;1;B\nB;3,0;A\nC;0,5;A\nA;,5;C\nC;4;B\n",
         ["cells are separated by semicolons", "commas in numbers are decimal commas"]),
        ("c.csv", ",date,winner,loser,count\n0,x,B,A,1\n1,y,A,B,3\n2,z,A,C,.5\n3,x,C,A,.5\n4,,B,C,4\n",
         ["columns not used: column 1 (without a name), date"]),
        ("c.csv", "winner,loser,count,,\nB,A,1,,\nA,B,3\nA,C,.5,,\nC,A,.5,\nB,C,4,,\n", []),
        ("c.json", json.dumps(RECORDS), ["columns not used: turn"]),
        ("c.jsonl", "\n".join(map(json.dumps, RECORDS)), ["columns not used: turn"]),
    ],
)  # fmt: skip
def test_comparisons(tmp_path, name, content, notes):
    P = PreferenceMatrix.load(save(tmp_path, name, content))
    assert P.labels == ("A", "B", "C")
    assert_array_equal(P.counts, WINS)
    assert list(P.notes) == notes
    assert_array_equal(PreferenceMatrix.from_comparisons(tmp_path / name).counts, WINS)


def test_each_row_counts_once_without_a_column_for_it_and_names_may_be_anything(tmp_path):
    once = PreferenceMatrix.load(save(tmp_path, "c.csv", 'winner,loser\n1,2\n1,2\n2,1\n"a, b",1\n1,"a, b"\n'))
    assert once.labels == ("1", "2", "a, b")
    assert_array_equal(once.counts, [[0, 2, 1], [1, 0, 0], [1, 0, 0]])
    with pytest.raises(MissingPair, match=r"c\.csv: Never compared: Entry \(2, a, b\)"):
        _ = once.p
    thousands = save(tmp_path, "t.csv", 'winner,loser,count\na,b,"1,500"\nb,a,3\n')
    assert_array_equal(PreferenceMatrix.load(thousands).counts, [[0, 1500], [3, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("winner,loser,count\nA,B,many\n", "line 2, column 'count': 'many' is not a number of comparisons"),
        ("winner,loser,count\nA,B,1\n\nA,B,-1\n", "line 4, column 'count': '-1'"),
        ("winner,loser,count\nA,B,nan\n", "line 2, column 'count': 'nan'"),
        ("winner,loser,count\nA,B,1e999\n", "line 2, column 'count': '1e999'"),
        ("winner,loser,count\nA,B,5%\n", "line 2, column 'count': '5%'"),
        ("winner,loser,count\nA,B\n", "line 2, column 'count': ''"),
        ("winner,loser,count\nA,B,1,500\n", "line 2 holds 4 cells; line 1 names 3"),
        ("winner;loser;count\nA;B;1,500\n", "line 2, column 'count': '1,500' may be 1500 or 1.500"),
        ("winner,loser,count\nA,A,1\n", "line 2, column 'loser': 'A' cannot lose against itself"),
        ("winner,loser,count\n,A,1\n", "line 2, column 'winner': is empty"),
        ("winner,loser,count\nA,,1\n", "line 2, column 'loser': is empty"),
        ("winner,loser,count,weight\nA,B,1,2\n", "has a column count and a column weight"),
        ("winner,loser,Winner\nA,B,1\n", "line 1 names 2 columns 'winner'"),
        ("winner,looser\nA,B\n", "line 1 names the columns winner, looser; what is read is"),
        ("winner,loser,count\n", "names columns but holds no comparisons"),
    ],
)
def test_bad_comparisons_are_named(tmp_path, text, message):
    file = save(tmp_path, "c.csv", text)
    with pytest.raises(InvalidData) as caught:
        PreferenceMatrix.load(file)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_comparisons_need_their_header(tmp_path):
    for text, seen in (("A,B\n.5,.5\n.5,.5\n", "the first row is A, B"), ("", "is empty")):
        with pytest.raises(InvalidData, match=seen):
            PreferenceMatrix.from_comparisons(save(tmp_path, "p.csv", text))


BATTLES = [
    ("g", "l", "model_a"),
    ("g", "l", "tie"),
    ("l", "g", "model_a"),
    ("h", "g", "tie (bothbad)"),
    ("l", "g", "b"),
]
BATTLES += [("g", "l", "g"), ("h", "l", "Left"), ("g", "h", "MODEL_B")]
TEXT = 'long, "quoted";\nwith\ttabs and \x85 in it'


def battles(sides):
    """The table of ``BATTLES`` in several shapes."""
    records = [dict(zip((*sides, "winner"), row, strict=True)) | {"question": TEXT} for row in BATTLES]
    quoted = TEXT.replace('"', '""')
    csv = "\n".join([",".join((*sides, "winner", "question")), *(f'{a},{b},{w},"{quoted}"' for a, b, w in BATTLES)])
    return {"b.csv": csv, "b.json": json.dumps(records), "b.jsonl": "\n".join(map(json.dumps, records))}


@pytest.mark.parametrize("sides", [("model_a", "model_b"), ("Model A", "Model-B"), ("left", "right"), ("a", "b")])
@pytest.mark.parametrize("name", ["b.csv", "b.json", "b.jsonl"])
def test_battles(tmp_path, sides, name):
    file = save(tmp_path, name, battles(sides)[name])
    without = np.array([[0, 0, 3], [1, 0, 1], [1, 0, 0]])
    P = PreferenceMatrix.load(file, ties="drop")
    assert P.labels == ("g", "h", "l")
    assert_array_equal(P.counts, without)
    assert P.notes == ("columns not used: question", "2 ties of 8 battles are left out")
    half = PreferenceMatrix.from_comparisons(file, ties="half")
    assert_array_equal(half.counts, without + np.array([[0, 0.5, 0.5], [0.5, 0, 0], [0.5, 0, 0]]))
    assert half.notes[1] == "2 ties of 8 battles are half a win for each side"
    with pytest.raises(InvalidData, match=r'2 of 8 battles are ties; say .*ties="half".*ties="drop"'):
        PreferenceMatrix.load(file)


def test_battles_without_ties_need_no_rule(tmp_path):
    file = save(tmp_path, "b.csv", "left,right,winner\ng,l,left\nl,g,right\ng,l,l\n")
    assert_array_equal(PreferenceMatrix.load(file).counts, [[0, 2], [1, 0]])
    assert PreferenceMatrix.load(file, ties="half").notes == ("no battle is a tie",)
    with pytest.raises(InvalidParameter, match=r"counts=True has no meaning for .*, which holds battles"):
        PreferenceMatrix.load(file, counts=True)


def test_models_known_only_from_dropped_ties_stay(tmp_path):
    file = save(tmp_path, "b.csv", "model_a,model_b,winner\ng,l,g\nl,g,l\ng,h,tie\n")
    assert PreferenceMatrix.load(file, ties="drop").labels == ("g", "h", "l")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("g,l,nobody", "line 2, column 'winner': 'nobody' is no winner; write model_a, model_b or tie"),
        ("g,l,", "line 2, column 'winner': '' is no winner"),
        ("g,g,model_a", "line 2, column 'model_b': 'g' cannot meet itself"),
        ("g,,model_a", "line 2, column 'model_b': is empty"),
        ("model_b,l,model_b", "line 2, column 'winner': 'model_b' names one side and is called like the other"),
    ],
)
def test_bad_battles_are_named(tmp_path, row, message):
    with pytest.raises(InvalidData) as caught:
        PreferenceMatrix.load(save(tmp_path, "b.csv", f"model_a,model_b,winner\n{row}\n"))
    assert message in str(caught.value)
    with pytest.raises(InvalidData, match="line 1 names the columns model_a, model_b; what is read is"):
        PreferenceMatrix.load(save(tmp_path, "b.csv", "model_a,model_b\ng,l\n"))


def test_the_command_line_gives_advice_as_one_types_it_and_prints_what_was_assumed(capsys, tmp_path):
    file = str(save(tmp_path, "b.csv", battles(("model_a", "model_b"))["b.csv"]))
    assert main(["solve", file, "--concept", "rlhf"]) == 2
    assert "(--ties half) or is left out (--ties drop)" in capsys.readouterr().err
    assert main(["solve", file, "--concept", "rlhf", "--ties", "half"]) == 0
    captured = capsys.readouterr()
    ties = f"note: {file}: 2 ties of 8 battles are half a win for each side.\n"
    assert captured.err == f"note: {file}: columns not used: question.\n{ties}"
    table = str(save(tmp_path, "p.csv", "A,B\n.5,.67\n.34,.5\n"))
    assert main(["describe", table]) == 2
    assert "read the file with --symmetrise" in capsys.readouterr().err
    assert main(["describe", table, "--ties", "half"]) == 2
    assert f"--ties half has no meaning for {table}" in capsys.readouterr().err
    for option, text in (("--percent", "A,B\n50,67\n33,50\n"), ("--counts", "A,B\n0,6\n3,0\n"), ("--symmetrise", None)):
        file = table if text is None else str(save(tmp_path, "q.csv", text))
        assert main(["describe", file, option, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["condorcet_winner"] == ["A"]
