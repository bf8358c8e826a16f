"""``python -m tabular``: answers on stdout, one-line errors on stderr, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import numpy as np
import pytest
from numpy.testing import assert_allclose

from slhf import figures
from slhf.algorithms import ALGORITHMS, OMWU, SPO, StackelbergGDA
from tabular import nash, solve_nlhf, solve_rlhf, solve_slhf
from tabular.__main__ import main
from tabular.commands import options
from tabular.commands.run import field_docs
from tabular.dynamics import run
from tests.tabular.strategies import CONDORCET


def test_files_of_text_or_complex_numbers_are_refused(capsys, tmp_path):
    np.save(tmp_path / "c.npy", CONDORCET.p + 1j)
    (tmp_path / "s.json").write_text('[[0.5, "0.4"], [0.6, 0.5]]')
    for name, problem in (("c.npy", "complex numbers"), ("s.json", "nested lists of numbers")):
        assert main(["describe", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert problem in err
        assert err.count("\n") == 1


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
        (["--concept", "slhf", "--tau", "1e300"], "tau_leader = 1e+300: float64 cannot tell it from infinity"),
        (["--concept", "rlhf", "--l2", "1e308"], "l2 = 1e+308: float64 cannot tell it from infinity"),
        (["--concept", "slhf", "--unranked", "bottom"], "--unranked bottom has no meaning for"),
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
    kinds = ".csv, .tsv, .txt, .json, .jsonl, .npy, .soc, .soi, .toc, .toi, .wmd"
    assert done.stderr == f"error: {file}x: unknown kind of file '.csvx'; use one of {kinds}.\n"


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


# run


def followed(capsys, *argv):
    assert main(["run", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_run_is_the_librarys(capsys, file):
    found = followed(
        capsys, file, "--algorithm", "stackelberg_gda", "--set", "learning_rate=0.1", "--set", "timescale=2",
        "--steps", "60", "--record-every", "20", "--form", "mirror", "--reference", ".2,.3,.5",
        "--follower-reference", ".6,.2,.2",
    )  # fmt: skip
    trace = run(StackelbergGDA(0.1, 2), CONDORCET, 60, 20, "mirror", [0.2, 0.3, 0.5], [0.6, 0.2, 0.2])
    assert found["steps"] == [0, 20, 40, 60]
    for name in ("policies", "averages", "gaps", "distances", "solution"):
        assert_allclose(found[name], getattr(trace, name))
    assert (found["algorithm"], found["form"], found["seed"]) == ("stackelberg_gda", "mirror", None)
    assert found["settings"]["timescale"] == 2
    assert found["labels"] == ["A", "B", "C"]


def test_run_samples_with_a_seed(capsys, file):
    found = followed(capsys, file, "--algorithm", "spo", "--set", "samples=4", "--steps", "5", "--seed", "3")
    assert_allclose(found["policies"], run(SPO(samples=4), CONDORCET, 5, seed=3).policies)
    assert (found["form"], found["seed"], found["settings"]["samples"]) == ("softmax", 3, 4)


def test_run_knows_the_literatures_names(capsys, file):
    found = followed(capsys, file, "--algorithm", "ogda", "--steps", "5", "--reference", ".2,.3,.5")
    expected = run(OMWU(), CONDORCET, 5, parameterization="simplex", leader_reference=[0.2, 0.3, 0.5])
    assert_allclose(found["policies"], expected.policies)
    assert (found["algorithm"], found["form"]) == ("omwu", "simplex")
    assert main(["run", file, "--algorithm", "ogda", "--form", "mirror"]) == 2
    assert "ogda is omwu --form simplex" in capsys.readouterr().err


def test_the_runs_table(capsys, file):
    assert main(["run", file, "--algorithm", "stackelberg_gda", "--steps", "2000"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar, for this is no terminal
    lines = captured.out.splitlines()
    assert lines[0].split() == ["step", "gap", "distance", "last", "policy", "(A,", "B,", "C)", "average", "policy"]
    steps = [int(line.split()[0]) for line in lines[2:14]]
    assert (steps[0], steps[-1], len(steps)) == (0, 2000, 12)
    assert np.all(np.diff(np.log(steps[1:])) > 0.5)
    assert lines[2].split()[3:6] == ["0.3333"] * 3
    exact = [f"{p:.4f}" for p in solve_slhf(CONDORCET).policy]
    assert lines[13].split()[3:6] == exact
    assert lines[14].split() == ["exact", *exact]
    assert "StackelbergGDA(learning_rate=0.05" in captured.out
    assert captured.out.endswith("form: simplex, exact expectations\n")


def test_a_large_game_shows_the_likeliest(capsys, tmp_path):
    np.save(tmp_path / "P.npy", np.stack([np.full((9, 9), 0.5)] * 2))
    assert main(["run", str(tmp_path / "P.npy"), "--algorithm", "inpo", "--steps", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("likeliest of 9") == 2
    assert "game (1,)" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algorithm", "stackelberg_gda", "--set", "timescales=1"], "did you mean timescale?"),
        (["--algorithm", "omwu", "--set", "zzz=1"], "omwu has no such setting; valid are learning_rate, samples"),
        (["--algorithm", "omwu", "--set", "learning_rate=fast"], "--set learning_rate=fast: must be a number"),
        (["--algorithm", "omwu", "--set", "samples=1.5"], "--set samples=1.5: must be a whole number"),
        (["--algorithm", "omwu", "--set", "learning_rate=-1"], "OMWU.learning_rate = -1.0: must be positive"),
        (["--algorithm", "omwu", "--form", "mirrors"], "--form mirrors: not a form of omwu; did you mean mirror?"),
        (["--algorithm", "stackelberg_gda", "--form", "mirror", "--seed", "0"], "not a form of stackelberg_gda with"),
        (["--algorithm", "omwu", "--steps", "-1"], "steps = -1"),
    ],
)
def test_bad_runs_are_refused_in_one_line(capsys, file, argv, message):
    assert main(["run", file, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algorithm", "stackleberg"], "'stackleberg' is unknown; did you mean stackelberg_gda?"),
        (["--algorithm", "omwu", "--set", "samples"], "'samples' is not NAME=VALUE"),
        (["--algorithm", "omwu", "--plot", "x.bmpx"], "'x.bmpx': pictures are written as .png"),
    ],
)
def test_bad_names_of_runs_are_one_line(capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        main(["run", "P.csv", *argv])
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.count("\n") == 1
    assert message in err


def test_help_of_run_teaches_every_algorithm_and_setting(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name, cls in ALGORITHMS.items():
        assert f" {name}: " in out
        for field in fields(cls):
            assert f"{field.name} = {field.default}: {' '.join(field_docs(cls)[field.name].split())}" in out
    assert "onpo = omwu --form mirror" in out


# Pictures

PNG = b"\x89PNG"


@pytest.mark.parametrize(
    "argv",
    [
        ["solve", "FILE", "--concept", "slhf"],
        ["solve", "FILE", "--concept", "nlhf"],
        ["describe", "FILE"],
        ["run", "FILE", "--algorithm", "mmd", "--steps", "20"],
        ["run", "LARGE", "--algorithm", "mmd", "--steps", "20"],
        ["describe", "LARGE"],
        ["audit", "--concept", "rlhf", "--axiom", "smith", "--axiom", "pareto", "--games", "0"],
    ],
    ids=" ".join,
)
def test_plots_are_written_beside_the_answer(capsys, file, tmp_path, argv):
    np.save(tmp_path / "large.npy", np.full((14, 14), 0.5))
    argv = [{"FILE": file, "LARGE": str(tmp_path / "large.npy")}.get(word, word) for word in argv]
    assert main(argv) == 0
    answer = capsys.readouterr().out
    picture = tmp_path / "new folder" / "picture.png"
    assert main([*argv, "--plot", str(picture)]) == 0
    assert capsys.readouterr().out == answer
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    "command",
    [
        ["solve", "FILE", "--concept", "nlhf"],
        ["describe", "FILE"],
        ["run", "FILE", "--algorithm", "mmd"],
        ["audit", "--games", "0"],
    ],
    ids=lambda command: command[0],
)
def test_an_unwritable_plot_is_one_line_before_any_work(capsys, file, tmp_path, monkeypatch, command):
    (tmp_path / "folder.png").mkdir()
    command = [{"FILE": file}.get(word, word) for word in command]
    module = import_module(f"tabular.commands.{command[0]}")
    worked = []
    for name in ("audit", "describe", "follow", "read_weights"):
        monkeypatch.setattr(module, name, lambda *_, **__: worked.append(1), raising=False)
    monkeypatch.setattr(options, "load", lambda _: worked.append(1))
    for path in (f"{file}/picture.png", str(tmp_path / "folder.png"), str(tmp_path / ("x" * 300 + ".png"))):
        assert main([*command, "--plot", path]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {path}: cannot be written: ")
        assert captured.err.count("\n") == 1
    assert not worked


def test_a_picture_that_was_not_drawn_leaves_no_folder(capsys, file, tmp_path):
    assert main(["solve", file, "--concept", "slhf", "--tau", "-1", "--plot", str(tmp_path / "new" / "x.png")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_bad_seed_of_an_audit_is_one_line(capsys):
    assert main(["audit", "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "error: seed = -1: must not be negative.\n"


@pytest.mark.parametrize("concepts", [["slhf"], ["rlhf", "nlhf", "slhf"]])
def test_the_note_of_a_verdict_table_stays_inside(tmp_path, monkeypatch, concepts):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    only = [word for name in concepts for word in ("--concept", name)]
    assert main(["audit", *only, "--axiom", "smith", "--games", "0", "--plot", str(tmp_path / "x.png")]) == 0
    (figure,) = drawn
    figure.draw_without_rendering()
    note = figure.axes[0].xaxis.label.get_window_extent()
    assert "no proof" in figure.axes[0].get_xlabel()
    assert figure.bbox.x0 <= note.x0 <= note.x1 <= figure.bbox.x1
    assert note.y0 >= figure.bbox.y0


def test_turned_names_end_at_their_tick():
    figure, axes = figures.new_figure()
    figures.bars(axes[0, 0], {"policy": [0.5, 0.5]}, ["a rather long name", "another"], "probability")
    figure.draw_without_rendering()
    for place, label in enumerate(axes[0, 0].get_xticklabels()):
        tick = axes[0, 0].transData.transform((place, 0))[0]
        assert abs(label.get_window_extent().x1 - tick) < 6


def test_a_batch_is_not_drawn(capsys, tmp_path):
    np.save(tmp_path / "P.npy", np.stack([CONDORCET.p] * 2))
    assert main(["describe", str(tmp_path / "P.npy"), "--plot", str(tmp_path / "x.png")]) == 2
    assert "holds a batch of shape (2,)" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    """More than a pipe holds, to a reader that takes one line."""
    np.save(tmp_path / "P.npy", np.broadcast_to(CONDORCET.p, (300, 3, 3)))
    command = [sys.executable, "-m", "tabular", "describe", str(tmp_path / "P.npy"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_the_temperatures_are_printed_whether_given_or_not(capsys, file):
    main(["solve", file, "--concept", "nlhf"])
    main(["solve", file, "--concept", "slhf", "--tau-leader", "2"])
    nash_table, _, rest = capsys.readouterr().out.partition("\ntau: 0\n")
    assert "tau" not in nash_table
    assert rest.endswith("\ntau_leader: 2\ntau_follower: 0.1\n")
    main(["solve", file, "--concept", "rlhf", "--json"])
    assert json.loads(capsys.readouterr().out)["tau"] == 0.1


def test_an_option_that_does_not_exist_comes_with_the_nearest(capsys, file):
    with pytest.raises(SystemExit, match="2"):
        main(["solve", file, "--concept", "nlhf", "--taau", "1"])
    assert "there is no option --taau; did you mean --tau?" in capsys.readouterr().err


def test_advice_is_given_as_one_types_it(capsys, tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("winner,loser,count\nA,B,3\nB,C,2\n", encoding="utf-8")
    assert main(["solve", str(path), "--concept", "nlhf"]) == 2
    assert "call them ties (--missing half)" in capsys.readouterr().err
    path.write_text("A,B\n.5,.6\n.4,.5\n", encoding="utf-8")
    for option in ("--reference", "--follower-reference"):
        assert main(["solve", str(path), "--concept", "slhf", option, ".2,.3,.5"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {option} has shape (3,)")


def test_an_option_of_another_command_says_whose_it_is(capsys, file):
    for argv, message in (
        (["describe", file, "--tau", "1"], "describe has no option --tau, which is for solve; drop it"),
        (["audit", "--missing=half"], "audit has no option --missing, which is for solve, run, describe; drop it"),
        (["describe", file, "other.csv"], "describe takes no 'other.csv' here; drop it, and quote what holds spaces"),
        (["audit", file], f"audit takes no {file!r} here"),
        (["run", file, "--algorithm", "dpo"], "'dpo' is unknown; did you mean online_dpo?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(argv)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_names_are_taken_in_any_case(capsys, file):
    assert answer(capsys, file, "--concept", "SLHF")["concept"] == "slhf"
    assert followed(capsys, file, "--algorithm", "SPO", "--steps", "1")["algorithm"] == "spo"
    assert main(["audit", "--concept", "RLHF", "--axiom", "Pareto", "--games", "0"]) == 0


def lotteries(capsys, file, *argv):
    assert main(["solve", str(file), "--concept", "nlhf", *argv]) == 0
    return capsys.readouterr().out


def test_without_a_temperature_the_selection_is_printed_and_whether_there_are_other_equilibria(capsys, file, tmp_path):
    assert "\nselection: any\nunique: yes" in lotteries(capsys, file)
    assert answer(capsys, file, "--concept", "nlhf")["unique"] is True
    ties = tmp_path / "ties.csv"
    ties.write_text("A,B,C\n.5,.5,.5\n.5,.5,.5\n.5,.5,.5\n")
    for selection in ("any", "max_entropy", "exact"):
        out = lotteries(capsys, ties, "--selection", selection)
        assert f"\nselection: {selection}\nunique: no, every policy on A, B, C is an equilibrium" in out
    assert answer(capsys, str(ties), "--concept", "nlhf")["unique"] is False
    assert "unique" not in lotteries(capsys, ties, "--tau", "0.1")
    some = tmp_path / "some.csv"  # A and B each beat C, and tie; D loses to all
    some.write_text("A,B,C,D\n.5,.5,.6,.9\n.5,.5,.7,.9\n.4,.3,.5,.9\n.1,.1,.1,.5\n")
    assert "unique: no, every policy on A, B is an equilibrium" in lotteries(capsys, some)
    np.save(tmp_path / "batch.npy", np.stack([CONDORCET.p, np.full((3, 3), 0.5)]))
    assert answer(capsys, str(tmp_path / "batch.npy"), "--concept", "nlhf")["unique"] == [True, False]
