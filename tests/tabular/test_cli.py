"""``python -m tabular``: answers on stdout, one-line errors on stderr, exit status."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tabular import nash, solve_nlhf, solve_rlhf, solve_slhf
from tabular.__main__ import main
from tests.tabular.strategies import CONDORCET


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "P.csv"
    path.write_text(",A,B,C\nA,.5,.65,.4\nB,.35,.5,.75\nC,.6,.25,.5\n")
    return str(path)


def answer(capsys, *argv):
    assert main(["solve", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_slhf(capsys, file):
    found = answer(capsys, file, "--concept", "slhf", "--tau", "0.1")
    s = solve_slhf(CONDORCET, 0.1, 0.1)
    assert found["concept"] == "slhf"
    assert found["labels"] == found["support"] == ["A", "B", "C"]
    for name in ("policy", "value", "follower", "follower_value", "follower_win_rate"):
        assert_allclose(found[name], getattr(s, name))
    assert found["certificate"]["method"] == "closed form"


def test_slhf_with_every_option(capsys, file):
    found = answer(
        capsys, file, "--concept", "slhf", "--tau", "0.3", "--tau-leader", "0.2",
        "--reference", ".2,.3,.5", "--follower-reference", ".6,.2,.2",
    )  # fmt: skip
    assert_allclose(found["policy"], solve_slhf(CONDORCET, 0.2, 0.3, [0.2, 0.3, 0.5], [0.6, 0.2, 0.2]).policy)


def test_nlhf(capsys, file):
    found = answer(capsys, file, "--concept", "nlhf", "--selection", "exact")
    assert found["rational"] == ["1/2", "1/5", "3/10"]
    assert found["certificate"]["exact"] is True
    regularised = answer(capsys, file, "--concept", "nlhf", "--tau", ".01", "--reference", ".5,.25,.25")
    assert_allclose(regularised["policy"], solve_nlhf(CONDORCET, 0.01, [0.5, 0.25, 0.25]).policy)
    assert "rational" not in regularised


def test_rlhf(capsys, file, tmp_path):
    asked = 1 - np.eye(3)
    asked[0, 2] = asked[2, 0] = 0
    np.save(tmp_path / "asked.npy", asked)
    found = answer(capsys, file, "--concept", "rlhf", "--tau", "0", "--pair-weights", str(tmp_path / "asked.npy"))
    assert found["support"] == ["A"]
    assert_allclose(found["reward"], solve_rlhf(CONDORCET, pair_weights=asked).reward)
    assert_allclose(
        answer(capsys, file, "--concept", "rlhf", "--l2", "2")["reward"], solve_rlhf(CONDORCET, l2=2).reward
    )


def test_a_batch(capsys, tmp_path):
    np.save(tmp_path / "P.npy", np.stack([CONDORCET.p, CONDORCET.p.T]))
    found = answer(capsys, str(tmp_path / "P.npy"), "--concept", "slhf", "--tau", "0")
    assert [game["support"] for game in found["games"]] == [["0"], ["2"]]
    assert found["certificate"]["gap"] == [0, 0]
    assert main(["solve", str(tmp_path / "P.npy"), "--concept", "nlhf"]) == 0
    assert capsys.readouterr().out.count("game (") == 2


@pytest.mark.parametrize("concept", ["rlhf", "nlhf", "slhf"])
def test_the_default_is_a_table(capsys, file, concept):
    assert main(["solve", file, "--concept", concept]) == 0
    out = capsys.readouterr().out
    assert "policy" in out
    assert "value: " in out
    assert "method: " in out
    assert out.count("\nA ") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--concept", "slhf", "--tau", "-1"], "tau_leader = -1.0: must not be negative"),
        (["--concept", "slhf", "--l2", "1"], "--l2 has no meaning for --concept slhf"),
        (["--concept", "nlhf", "--tau-leader", "1"], "--tau-leader has no meaning for --concept nlhf"),
        (["--concept", "nlhf", "--tau", "1", "--reference", ".5,.5"], "reference has shape (2,)"),
        (["--concept", "rlhf", "--pair-weights", "gone.csv"], "gone.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, file, argv, message):
    assert main(["solve", file, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["solve"], "FILE"),
        (["solve", "P.csv", "--concept", "dpo"], "invalid choice: 'dpo'"),
        (["solve", "P.csv", "--concept", "nlhf", "--reference", "a,b"], "'a,b' is not a list of numbers"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_solver_that_misses_its_tolerance_is_status_1(capsys, file, monkeypatch):
    monkeypatch.setattr(nash, "MAX_STEPS", 2)
    assert main(["solve", file, "--concept", "nlhf", "--tau", "0.01"]) == 1
    assert capsys.readouterr().err.startswith("error: Path following left")


def test_as_a_program(file):
    done = subprocess.run(
        [sys.executable, "-m", "tabular", "solve", file + "x", "--concept", "slhf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {file}x: unknown kind of file '.csvx'; use one of .csv, .npy, .json.\n"


def test_describe(capsys, file):
    assert main(["describe", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["condorcet_winner"] == found["weak_condorcet_winners"] == found["condorcet_loser"] == []
    assert found["smith_set"] == found["schwartz_set"] == found["copeland_winners"] == ["A", "B", "C"]
    assert (found["borda_winners"], found["simpson_set"]) == (["B"], ["A"])
    assert found["scores"]["simpson"] == {"A": 0.4, "B": 0.35, "C": 0.25}
    assert (found["cycles"], found["shortest_cycle"]) == ({"3": 1}, 3)
    assert found["transitivity"] == {"weak": 0, "moderate": 0, "strong": 0}
    assert found["reward"]["residual"] == pytest.approx(0.7077, abs=1e-4)
    assert main(["describe", file]) == 0
    table = capsys.readouterr().out
    for line in ("Condorcet winner            none", "Simpson set                 A\n", "1 of length 3", "0.7077 nats"):
        assert line in table


def test_describe_batches_and_sure_preferences(capsys, tmp_path):
    chain = np.triu(np.ones((17, 17)), 1) + np.eye(17) / 2
    np.save(tmp_path / "P.npy", np.stack([chain, chain.T]))
    assert main(["describe", str(tmp_path / "P.npy"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["games"]
    assert (first["condorcet_winner"], second["condorcet_winner"]) == (["0"], ["16"])
    assert first["reward"] == {"residual": None, "cyclic_share": None}
    assert (first["cycles"], first["shortest_cycle"]) == ({"3": 0}, None)
    assert main(["describe", str(tmp_path / "P.npy")]) == 0
    table = capsys.readouterr().out
    assert table.count("game (") == 2
    assert "no finite reward fits" in table
    assert "majority cycles             none" in table


def test_profiles_and_comparisons_are_solved(capsys, tmp_path):
    header = "# NUMBER ALTERNATIVES: 3\n" + "".join(
        f"# ALTERNATIVE NAME {k}: {name}\n" for k, name in enumerate("ABC", 1)
    )
    (tmp_path / "p.soi").write_text(header + "8: 1,2,3\n7: 2,3\n5: 3,1,2\n")
    assert main(["solve", str(tmp_path / "p.soi"), "--concept", "slhf"]) == 2
    assert "unranked" in capsys.readouterr().err
    found = answer(capsys, str(tmp_path / "p.soi"), "--concept", "slhf", "--tau", "0", "--unranked", "bottom")
    assert_allclose(found["follower_value"], [0.4, 0.35, 0.25])
    (tmp_path / "c.csv").write_text("winner,loser,count\nA,B,3\nB,A,1\nB,C,1\nC,B,1\n")
    assert main(["describe", str(tmp_path / "c.csv")]) == 2
    assert "Never compared: Entry (A, C)" in capsys.readouterr().err
    assert main(["describe", str(tmp_path / "c.csv"), "--missing", "half", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weak_condorcet_winners"] == ["A", "C"]


def test_help_teaches_with_examples(capsys):
    with pytest.raises(SystemExit):
        main(["solve", "--help"])
    out = capsys.readouterr().out
    assert "python -m tabular solve P.csv --concept slhf --tau 0.1" in out
    assert "probability that i is preferred to j" in out
