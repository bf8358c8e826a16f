"""The command as a user meets it: right, wrong, interrupted, repeated."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import reward_heads
from experiments.reward_heads import compare
from experiments.run import HERE
from experiments.train_reward import main
from llm.judges.reward_ensemble import RewardEnsembleJudge
from tests.llm.tiny_llama import WORDS, build_llama

FAST = ["--epochs", "2", "--learning-rate", "0.02", "--layers", "2", "--rank", "2", "--dtype", "float32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    build_llama(path)
    return str(path)


def transcripts(path, count):
    """HH's format; the chosen answer ends in "a"."""
    rng = np.random.default_rng(0)

    def some(n):
        return " ".join(rng.choice([w for w in WORDS if w != "a"], size=n))

    with path.open("w") as file:
        for i in range(count):
            opening = f"\n\nHuman: {some(3)} {i}\n\nAssistant: {some(2)}\n\nHuman: {some(2)}\n\nAssistant: "
            row = {"chosen": f"{opening}{some(2)} a", "rejected": f"{opening}{some(3)}"}
            file.write(json.dumps(row) + "\n")
    return path


def test_a_file_in_the_format_of_hh_works_from_one_command(base, tmp_path, capsys):
    data = transcripts(tmp_path / "mine.jsonl", 150)
    command = ["--data", str(data), "--model", base, "--out", str(tmp_path / "out"), *FAST]
    command += ["--heldout-share", "0.3", "--batch-size", "4", "--epochs", "4"]
    assert main(command) == 0
    first = capsys.readouterr().out
    (run,) = (tmp_path / "out").iterdir()
    assert str(run / "report.md") in first
    (row,) = json.loads((run / "finished.json").read_text())["heldout"]
    assert row["attribute"] == "preference"
    assert row["accuracy"] > 0.8
    report = (run / "report.md").read_text()
    assert "kind: reward_ensemble" in report
    assert f"{row['accuracy']:.3f}" in report
    assert (run / "calibration.png").stat().st_size > 5000
    assert not list(run.glob("checkpoint-*"))
    assert RewardEnsembleJudge.load(run / "ensemble").prefer(["b c d"], ["c d a"], ["c d b"])[0] == 1

    written = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(command) == 0  # a finished run is not repeated
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == written
    transcripts(data, 140)
    assert main([*command, "--epochs", "1"]) == 0  # other content is another run
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "mine.jsonl"),
        ("", "mine.jsonl"),
        ("\n\n", "mine.jsonl"),
        ('{"chosen": 1, "rejected": "x"}\n', '"chosen"'),
        ("not json\n", "line 1"),
        ('{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b"}\n', "rejected"),
        ('{"chosen": "hello", "rejected": "you"}\n', "1"),
    ],
    ids=["missing", "empty", "blank", "a number", "not JSON", "half a row", "no transcript"],
)
def test_bad_files_are_one_line_and_a_status(base, tmp_path, capsys, content, message):
    path = tmp_path / "mine.jsonl"
    if content is not None:
        path.write_text(content)
    failed(["--data", str(path), "--model", base, "--out", str(tmp_path / "out")], message, capsys)


def failed(command, message, capsys):
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert message in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--layers", "99"], "99"),
        (["--rank", "0"], "rank"),
        (["--epochs", "0"], "epochs"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--answers", "3"], "--answers: only with --data embedded"),
        (["--data", "embedded", "--limit", "5"], "--limit: not with"),
        (["--data", "embedded", "--answers", "1"], "at least 2"),
        (["--heldout-share", "0"], "--heldout-share"),
    ],
)
def test_bad_options_are_one_line_and_a_status(base, tmp_path, capsys, arguments, message):
    data = transcripts(tmp_path / "mine.jsonl", 30)
    failed(["--data", str(data), "--model", base, "--out", str(tmp_path / "out"), *arguments], message, capsys)


def test_an_unwritable_folder_is_one_line_and_a_status(base, tmp_path, capsys):
    data = transcripts(tmp_path / "mine.jsonl", 30)
    (tmp_path / "file").write_text("")
    failed(["--data", str(data), "--model", base, "--out", str(tmp_path / "file" / "out")], "file", capsys)


class Letters:
    """Two attributes of a text, in place of the embedded judge."""

    feature_names = ("likes_a", "likes_b")

    def __init__(self, device):
        pass

    def features(self, prompts, answers):
        return np.array([[answer.split().count(letter) for letter in "ab"] for answer in answers], dtype=float)


def test_the_offline_data_compare_all_pairs_and_are_made_once(base, tmp_path, capsys, monkeypatch):
    sampled = []

    def sample(prompts, answers, seed, device):
        sampled.append((len(prompts), seed))
        rng = np.random.default_rng(seed)
        return [" ".join(rng.choice(WORDS, size=5)) for _ in range(len(prompts) * answers)]

    monkeypatch.setattr(reward_heads, "sample", sample)
    monkeypatch.setattr(reward_heads, "AttributeJudge", Letters)
    command = ["--model", base, "--out", str(tmp_path), *FAST, "--prompts", "10", "--answers", "3"]
    monkeypatch.setattr(reward_heads, "hold_out", interrupt)
    assert main(command) == 130
    monkeypatch.undo()
    monkeypatch.setattr(reward_heads, "AttributeJudge", Letters)
    assert main(command) == 0  # without sampling again
    assert [count for count, _ in sampled] == [10, 10]
    assert sampled[0][1] != sampled[1][1]
    (run,) = tmp_path.iterdir()
    result = json.loads((run / "finished.json").read_text())
    assert list(result["train"]) == ["likes_a", "likes_b"]
    assert 10 < result["train"]["likes_a"] <= 30


def interrupt(*_):
    raise KeyboardInterrupt


def test_pairs_are_compared_where_attributes_differ():
    found = {"one": [], "two": []}
    compare("x", {"a": [1.0, 2.0], "b": [1.0, 3.0], "c": [0.0, 3.0]}, found)
    assert [(c.chosen, c.rejected) for c in found["one"]] == [("a", "c"), ("b", "c")]
    assert [(c.chosen, c.rejected) for c in found["two"]] == [("b", "a"), ("c", "a")]


def test_help_teaches():
    shown = subprocess.run(
        [sys.executable, "experiments/train_reward.py", "--help"],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0
    for word in ("--data", "my_transcripts.jsonl", "helpsteer2", "Human:", "never repeated", "rank 32"):
        assert word in shown.stdout
