"""The command as a user meets it: right, wrong, interrupted, repeated."""

import json
import subprocess
import sys

import pytest

from experiments.run import HERE, main
from llm.algorithms import IMPLEMENTATIONS

FINITE = str(HERE / "sweeps" / "finite_answers.yaml")
SMALL = ["--set", "steps=2", "--set", "train.batch_size=4", "--set", "model.seed=1", "--set", "trained=one"]


def run(*arguments):
    """The command in a process of its own, from the project's root."""
    command = [sys.executable, "experiments/run.py", *arguments]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)


def test_help_teaches():
    shown = run("--help")
    assert shown.returncode == 0
    for word in ("--set", "--out", "quickstart", "timescale=1,5,10", "resumes"):
        assert word in shown.stdout


def matrix(tmp_path, text):
    path = tmp_path / "game.csv"
    path.write_text(text)
    return f"judge.matrix={path}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.5,0.6\n0.4,0.5,0.1\n", "game.csv"),
        ("0.5,0.6\n0.4,x\n", "game.csv"),
        ("0.5,nan\nnan,0.5\n", "game.csv"),
        ("0.5,1.6\n-0.6,0.5\n", "1.6"),
        ("0.5,0.6\n0.6,0.5\n", "0.6"),
        ("0.4,0.6\n0.4,0.6\n", "diagonal"),
    ],
)
def test_a_bad_matrix_is_one_line_and_a_status(tmp_path, capsys, rows, message):
    assert main([FINITE, "--set", matrix(tmp_path, rows), "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_errors_are_one_line_and_a_status_in_a_process_too():
    failed = run("--set", "trian.steps=3")
    assert failed.returncode == 1
    assert failed.stderr == "error: Unknown key 'trian.steps'; did you mean train.steps?\n"


def test_a_game_without_a_reward_is_refused_before_any_training(tmp_path, capsys):
    game = matrix(tmp_path, "A,B\n0.5,1.0\n0.0,0.5\n")
    assert main([FINITE, "--set", game, *SMALL, "--out", str(tmp_path)]) == 1
    assert "no finite Bradley-Terry rewards" in capsys.readouterr().err
    assert not list(tmp_path.glob("finite_answers/*"))


def test_a_finished_run_is_not_repeated(tmp_path, capsys):
    arguments = [FINITE, "--set", matrix(tmp_path, "A,B\n0.5,0.7\n0.3,0.5\n"), *SMALL, "--out", str(tmp_path)]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    assert {row["algorithm"] for row in first["results"]} == {spec.name for spec in IMPLEMENTATIONS}
    assert first["results"][0]["labels"] == ["A", "B"]


def test_a_foreign_llm_package_is_refused(tmp_path, capsys, monkeypatch):
    package = tmp_path / "llm-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: llm\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main([FINITE]) == 1
    assert "pip uninstall llm" in capsys.readouterr().err
