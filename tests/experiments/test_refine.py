"""The refining command on tiny models: what it writes, an interruption anywhere, and wrong input."""

import io
import json
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest

from experiments import refine as command
from llm import finite
from llm.generation import TransformersGenerator
from llm.policy import LoRA, Policy
from llm.refine import refine
from slhf.errors import InvalidData
from slhf.runs import derive_seed
from tests.llm.tiny import move, tiny_policy

LABELS = ("a", "b")
PROMPTS = ["choose", "choose choose", "choose the answer", "the choose", "answer", "prompt choose", "the the choose"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model on disk that may also end its answers."""
    path = tmp_path_factory.mktemp("model")
    policy = tiny_policy(path, LABELS)
    base = policy.model.unload()
    base.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    """A run directory with two checkpoints, as training leaves it; the roles have an adapter each."""
    path = tmp_path_factory.mktemp("runs") / "stackelberg_gda-0123456789"
    settings = {"name": str(model), "temperature": 0.9, "max_new_tokens": 4}
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps({"config": {"model": settings}}))
    for step in (2, 10):
        policy = Policy.load(str(model), LoRA(rank=4, modules=finite.MODULES), dtype="float32", sharing="two")
        move(policy, seed=step)
        policy.save(path / f"checkpoint-{step:06d}" / "adapter")
    return path


def prompts_file(tmp_path, rows=None):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": x} for x in PROMPTS] if rows is None else rows
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def start(prompts, out, *more):
    return command.main([str(prompts), "--out", str(out), "--dtype", "float32", "--batch-size", "3", *map(str, more)])


def rows_of(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def player(policy):
    return policy, TransformersGenerator(policy)


# --- llm.refine


def test_batches_and_their_rows_do_not_change_the_answers(tmp_path):
    policy, generator = player(tiny_policy(tmp_path))
    whole = refine(policy, generator, PROMPTS, 3, 4, seed=5)
    parts = [refine(policy, generator, PROMPTS[i : i + 3], 3, 4, seed=5, first_row=i) for i in (0, 3, 6)]
    assert [list(chain(*answers)) for answers in zip(*parts, strict=True)] == whole
    assert whole[0] != whole[1]


def test_given_answers_are_refined_as_if_they_had_been_sampled(tmp_path):
    policy, generator = player(tiny_policy(tmp_path))
    prompts = ["choose"] * 64
    sampled = generator.open([policy.chat.prompt(x) for x in prompts]).sample(8, seed=0)
    ended = [policy.chat.text(y.ids) for y in sampled if y.ids[-1] == policy.chat.eos]
    ids = [y.ids for y in sampled if y.ids[-1] == policy.chat.eos]
    assert len(set(ended)) > 1
    assert [policy.chat.given(text) for text in ended] == ids
    first, second = refine(policy, generator, prompts[: len(ended)], 2, 4, seed=1, first=ended)
    assert first == ended
    contexts = [policy.chat.follower_prompt("choose", y) for y in ids]
    own = TransformersGenerator(policy).open(contexts)
    assert second == [policy.chat.text(y.ids) for y in own.sample(4, command_seed(1, 2), "follower")]
    with pytest.raises(InvalidData, match="1 first answers for 2 prompts"):
        refine(policy, generator, ["a", "b"], 2, 4, seed=1, first=["a"])


def command_seed(seed, number):
    return derive_seed(seed, "refine", number)


def test_another_models_answers_are_read_as_text(tmp_path):
    """Of a vocabulary in another order, so that the Leader's token ids mean other words to the Follower."""
    leader = player(tiny_policy(tmp_path / "leader", ("a", "b")))
    follower = player(tiny_policy(tmp_path / "follower", ("c", "b", "a"), sharing="two"))
    prompts = ["choose"] * 20
    first, second = refine(*leader, prompts, 2, 3, seed=3, follower=follower)
    assert first == refine(*leader, prompts, 1, 3, seed=3)[0]
    assert second == refine(*follower, prompts, 2, 3, seed=3, first=first)[1]
    assert any("c" in text for text in second)
    assert not any("c" in text for text in first)


# --- the command


def test_one_row_per_prompt_with_every_round(tmp_path, model, run):
    out = tmp_path / "new" / "refined.jsonl"
    assert start(prompts_file(tmp_path), out, "--adapter", run) == 0
    rows = rows_of(out)
    assert [(row["row"], row["prompt"]) for row in rows] == list(enumerate(PROMPTS, 1))
    latest = run / "checkpoint-000010" / "adapter"
    lora = LoRA(rank=4, modules=finite.MODULES)
    policy = Policy.load(str(model), lora, latest, temperature=0.9, dtype="float32", sharing="two")
    expected = refine(*player(policy), PROMPTS, 3, 4, seed=0)
    assert [row["answers"] for row in rows] == [list(answers) for answers in zip(*expected, strict=True)]
    settings = json.loads((out.parent / "refined.settings.json").read_text())
    assert settings["leader"] == settings["follower"]
    assert settings["leader"]["adapter"] == str(latest)
    assert (settings["leader"]["temperature"], settings["max_new_tokens"]) == (0.9, 4)


def test_a_run_a_checkpoint_and_an_adapter_are_the_same_weights(tmp_path, run):
    places = (run, run / "checkpoint-000010", run / "checkpoint-000010" / "adapter")
    for i, place in enumerate(places):
        assert start(prompts_file(tmp_path), tmp_path / f"{i}.jsonl", "--adapter", place) == 0
    first, *others = [(tmp_path / f"{i}.jsonl").read_bytes() for i in range(3)]
    assert all(other == first for other in others)
    assert start(prompts_file(tmp_path), tmp_path / "old.jsonl", "--adapter", run / "checkpoint-000002") == 0
    assert (tmp_path / "old.jsonl").read_bytes() != first


def test_a_follower_for_the_answers_of_a_model_and_for_given_answers(tmp_path, model, run):
    base = ("--model", model, "--max-new-tokens", 4, "--temperature", 0.9)
    assert start(prompts_file(tmp_path), tmp_path / "a.jsonl", *base, "--follower-adapter", run) == 0
    rows = rows_of(tmp_path / "a.jsonl")
    assert start(prompts_file(tmp_path), tmp_path / "base.jsonl", *base) == 0
    assert [row["answers"][0] for row in rows] == [row["answers"][0] for row in rows_of(tmp_path / "base.jsonl")]
    assert [row["answers"] for row in rows] != [row["answers"] for row in rows_of(tmp_path / "base.jsonl")]
    answered = prompts_file(tmp_path, [{"prompt": row["prompt"], "answer": row["answers"][0]} for row in rows])
    assert start(answered, tmp_path / "b.jsonl", "--follower-adapter", run) == 0
    assert rows_of(tmp_path / "b.jsonl") == rows


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 6])
def test_interrupted_anywhere_the_result_is_the_same_to_the_byte(tmp_path, run, monkeypatch, kept):
    """Killed after ``kept`` rows and a half of the next; batches are of 3."""
    prompts, whole, out = prompts_file(tmp_path), tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert start(prompts, whole, "--adapter", run) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    assert start(prompts, out, "--adapter", run) == 0
    out.write_bytes(b"".join(lines[:kept]) + lines[kept][:7])
    asked = []
    monkeypatch.setattr(command, "refine", lambda *a, **k: asked.append(k["first_row"]) or refine(*a, **k))
    assert start(prompts, out, "--adapter", run) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert asked == [row for row in (0, 3, 6) if row + 3 > kept]
    assert start(prompts, out, "--adapter", run) == 0  # finished: nothing is loaded or asked
    assert len(asked) == len([row for row in (0, 3, 6) if row + 3 > kept])


def test_rows_are_written_as_they_finish(tmp_path, run, monkeypatch, capsys):
    out, calls = tmp_path / "a.jsonl", []

    def stopping(*arguments, **options):
        calls.append(len(rows_of(out)))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return refine(*arguments, **options)

    monkeypatch.setattr(command, "refine", stopping)
    assert start(prompts_file(tmp_path), out, "--adapter", run) == 130
    assert calls == [0, 3, 6]
    assert "goes on where it stopped" in capsys.readouterr().err


def test_standard_input_holds_lines_of_text_or_json(tmp_path, model, monkeypatch):
    base = ("--model", model, "--max-new-tokens", 3, "--rounds", 2)
    (tmp_path / "p.txt").write_text("choose\n\n the choose \n")
    assert start(tmp_path / "p.txt", tmp_path / "file.jsonl", *base) == 0
    for name, text in (("text", "choose\n\nthe choose\n"), ("json", '{"prompt": "choose"}\n{"prompt": "the choose"}')):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert start("-", tmp_path / f"{name}.jsonl", *base) == 0
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (tmp_path / "file.jsonl").read_bytes()
    assert [row["prompt"] for row in rows_of(tmp_path / "file.jsonl")] == ["choose", "the choose"]


class LongerIsBetter:
    def prefer(self, prompts, a, b):
        return np.array([0.5 + 0.5 * np.sign(len(x) - len(y)) for x, y in zip(a, b, strict=True)])


def test_the_judge_holds_every_round_against_the_first(tmp_path, run, monkeypatch, capsys):
    monkeypatch.setattr(command, "load_judge", lambda *_, **__: LongerIsBetter())
    out = tmp_path / "a.jsonl"
    assert start(prompts_file(tmp_path), out, "--adapter", run, "--judge") == 0
    printed = capsys.readouterr().out
    for number in (2, 3):
        lengths = [(len(row["answers"][number - 1]), len(row["answers"][0])) for row in rows_of(out)]
        mean = np.mean([0.5 + 0.5 * np.sign(a - b) for a, b in lengths])
        assert f"round {number}: {mean:.3f} [" in printed


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (["not json"], (), "prompts.jsonl, line 1: not JSON"),
        ([{"prompt": "x"}, {"prompt": 3}], (), 'line 2: "prompt" must be a text, not 3'),
        ([{"prompt": "x"}, {"prompt": " "}], (), 'line 2: "prompt" is empty'),
        ([{"prompt": "x", "answer": "y"}, {"prompt": "x"}], (), 'line 2: "answer" must be a text, not None'),
        ([{"text": "x"}], (), 'needs a field "prompt"; its columns are text'),
        ([], (), "prompts.jsonl is empty"),
        ([{"prompt": "x", "answer": "y"}], ("--model", "embedded"), "gives first answers"),
        ([{"prompt": "x"}], ("--adapter", "nowhere"), "There is no directory nowhere"),
        ([{"prompt": "x"}], ("--model", "/no/such/model"), "Cannot load the model '/no/such/model'"),
        ([{"prompt": "x"}], ("--rounds", "0"), "Command.rounds = 0"),
        ([{"prompt": "x"}], ("--temperature", "0"), "Command.temperature = 0.0: must be positive"),
        ([{"prompt": "x"}], ("--rounds", "1", "--judge"), "Command.rounds = 1: must be at least 2"),
    ],
)
def test_wrong_input_is_one_line_and_a_status(tmp_path, capsys, monkeypatch, rows, more, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert start(prompts_file(tmp_path, rows), tmp_path / "out.jsonl", *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_folders_that_hold_no_weights(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, message in (("run", "holds no checkpoint yet"), ("empty", "neither a run, nor a checkpoint")):
        assert start(prompts_file(tmp_path), tmp_path / "out.jsonl", "--adapter", tmp_path / name) == 1
        assert message in capsys.readouterr().err
    assert start(tmp_path / "none.txt", tmp_path / "out.jsonl") == 1
    assert "No such file" in capsys.readouterr().err
    assert start(tmp_path / "none.jsonl", tmp_path / "out.jsonl") == 1
    assert "There is no file" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_of_other_settings_or_prompts_is_left_alone(tmp_path, run, capsys):
    prompts, out = prompts_file(tmp_path), tmp_path / "out.jsonl"
    assert start(prompts, out, "--adapter", run) == 0
    before = out.read_bytes()
    assert start(prompts, out, "--adapter", run, "--seed", 1) == 1
    assert "with other settings (seed)" in capsys.readouterr().err
    assert start(prompts_file(tmp_path, [{"prompt": "choose"}, {"prompt": "b"}]), out, "--adapter", run) == 1
    assert "line 2 is of another prompt" in capsys.readouterr().err
    assert out.read_bytes() == before
    (tmp_path / "out.settings.json").unlink()
    assert start(prompts_file(tmp_path), out, "--adapter", run) == 1
    assert "by something else" in capsys.readouterr().err


def test_help_teaches():
    shown = subprocess.run(
        [sys.executable, "experiments/refine.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("prompts.txt", "--follower-adapter", "goes on where it stopped", "round 1", "run directory"):
        assert word in " ".join(shown.replace("│", " ").split())
