"""The refining command on tiny models: what it writes, an interruption anywhere, and wrong input."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest

from experiments import refine as command
from experiments import refining
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
    lora = {"rank": 4, "modules": list(finite.MODULES)}
    settings = {"name": str(model), "dtype": "float32", "temperature": 0.9, "max_new_tokens": 4}
    config = {"algorithm": {"name": "stackelberg_gda"}, "model": {**settings, "lora": lora, "sharing": "two"}}
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps({"config": config}))
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
    return command.main([str(prompts), "--out", str(out), "--batch-size", "3", *map(str, more)])


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
    assert start(prompts_file(tmp_path), out, "--leader", run) == 0
    rows = rows_of(out)
    assert [(row["row"], row["prompt"]) for row in rows] == list(enumerate(PROMPTS, 1))
    latest = run / "checkpoint-000010" / "adapter"
    lora = LoRA(rank=4, modules=finite.MODULES)
    policy = Policy.load(str(model), lora, latest, temperature=0.9, dtype="float32", sharing="two")
    expected = refine(*player(policy), PROMPTS, 3, 4, seed=0)
    assert [row["answers"] for row in rows] == [list(answers) for answers in zip(*expected, strict=True)]
    settings = json.loads((out.parent / "refined.settings.json").read_text())
    assert settings["leader"] == settings["follower"]
    sampled = settings["leader"]["model"]
    assert (sampled["temperature"], sampled["max_new_tokens"]) == (0.9, 4)
    digest = hashlib.sha256((latest / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert digest.startswith(settings["leader"]["weights"]["adapter/adapter_model.safetensors"])


def test_a_run_a_checkpoint_and_an_adapter_are_the_same_weights(tmp_path, run):
    places = (run, run / "checkpoint-000010", run / "checkpoint-000010" / "adapter")
    for i, place in enumerate(places):
        assert start(prompts_file(tmp_path), tmp_path / f"{i}.jsonl", "--leader", place) == 0
    first, *others = [(tmp_path / f"{i}.jsonl").read_bytes() for i in range(3)]
    assert all(other == first for other in others)
    assert start(prompts_file(tmp_path), tmp_path / "old.jsonl", "--leader", run / "checkpoint-000002") == 0
    assert (tmp_path / "old.jsonl").read_bytes() != first


def test_a_follower_for_the_answers_of_a_model_and_for_given_answers(tmp_path, model, run):
    base = ("--leader", model, "--max-new-tokens", 4, "--temperature", 0.9)
    assert start(prompts_file(tmp_path), tmp_path / "a.jsonl", *base, "--follower", run) == 0
    rows = rows_of(tmp_path / "a.jsonl")
    assert start(prompts_file(tmp_path), tmp_path / "base.jsonl", *base) == 0
    assert [row["answers"][0] for row in rows] == [row["answers"][0] for row in rows_of(tmp_path / "base.jsonl")]
    assert [row["answers"] for row in rows] != [row["answers"] for row in rows_of(tmp_path / "base.jsonl")]
    answered = prompts_file(tmp_path, [{"prompt": row["prompt"], "answer": row["answers"][0]} for row in rows])
    assert start(answered, tmp_path / "b.jsonl", "--follower", run) == 0
    assert rows_of(tmp_path / "b.jsonl") == rows


def test_an_adapter_of_two_roles_is_followed_by_its_follower_outside_its_run_too(tmp_path, run):
    shutil.copytree(run / "checkpoint-000010" / "adapter", tmp_path / "copied")
    sampled = ("--temperature", 0.9, "--max-new-tokens", 4)
    for name, place in (("own", run), ("copy", tmp_path / "copied"), ("role", tmp_path / "copied" / "follower")):
        assert start(prompts_file(tmp_path), tmp_path / f"{name}.jsonl", "--leader", place, *sampled) == 0
    own, copied, role = (rows_of(tmp_path / f"{name}.jsonl") for name in ("own", "copy", "role"))
    assert own == copied
    assert [row["answers"][0] for row in own] != [row["answers"][0] for row in role]


def test_each_role_samples_as_its_own_run_unless_the_command_says_otherwise(tmp_path, model, run):
    """The Leader's answers end after 4 tokens, as its run says; the bare Follower's at the default."""
    prompts = prompts_file(tmp_path)

    def sampled(name, *more):
        assert start(prompts, tmp_path / f"{name}.jsonl", "--leader", run, "--rounds", 2, *more) == 0
        settings = json.loads((tmp_path / f"{name}.settings.json").read_text())
        models = [settings[role]["model"] for role in ("leader", "follower")]
        answers = [[row["answers"][i] for row in rows_of(tmp_path / f"{name}.jsonl")] for i in (0, 1)]
        return [(m["temperature"], m["max_new_tokens"]) for m in models], answers

    settings, (first, _) = sampled("alone")
    assert settings == [(0.9, 4), (0.9, 4)]
    settings, (led, improved) = sampled("mixed", "--follower", model)
    assert settings == [(0.9, 4), (0.7, 128)]
    assert led == first
    assert max(len(text.split()) for text in improved) > 4 >= max(len(text.split()) for text in led)
    settings, (led, improved) = sampled("told", "--follower", model, "--temperature", 1.5, "--max-new-tokens", 2)
    assert settings == [(1.5, 2), (1.5, 2)]
    assert max(len(text.split()) for text in led + improved) == 2


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 6])
def test_interrupted_anywhere_the_result_is_the_same_to_the_byte(tmp_path, run, monkeypatch, kept):
    """Killed after ``kept`` rows and a half of the next; batches are of 3."""
    prompts, whole, out = prompts_file(tmp_path), tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert start(prompts, whole, "--leader", run) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    assert start(prompts, out, "--leader", run) == 0
    out.write_bytes(b"".join(lines[:kept]) + lines[kept][:7])
    asked = []
    monkeypatch.setattr(refining, "refine", lambda *a, **k: asked.append(k["first_row"]) or refine(*a, **k))
    assert start(prompts, out, "--leader", run) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert asked == [row for row in (0, 3, 6) if row + 3 > kept]
    assert start(prompts, out, "--leader", run) == 0  # finished: nothing is loaded or asked
    assert len(asked) == len([row for row in (0, 3, 6) if row + 3 > kept])


def test_rows_are_written_as_they_finish(tmp_path, run, monkeypatch, capsys):
    out, calls = tmp_path / "a.jsonl", []

    def stopping(*arguments, **options):
        calls.append(len(rows_of(out)))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return refine(*arguments, **options)

    monkeypatch.setattr(refining, "refine", stopping)
    assert start(prompts_file(tmp_path), out, "--leader", run) == 130
    assert calls == [0, 3, 6]
    assert "goes on where it stopped" in capsys.readouterr().err


def test_standard_input_holds_lines_of_text_or_json(tmp_path, model, monkeypatch):
    base = ("--leader", model, "--max-new-tokens", 3, "--rounds", 2)
    (tmp_path / "p.txt").write_text("choose\n\n the choose \n")
    assert start(tmp_path / "p.txt", tmp_path / "file.jsonl", *base) == 0
    for name, text in (("text", "choose\n\nthe choose\n"), ("json", '{"prompt": "choose"}\n{"prompt": "the choose"}')):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert start("-", tmp_path / f"{name}.jsonl", *base) == 0
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (tmp_path / "file.jsonl").read_bytes()
    assert [row["prompt"] for row in rows_of(tmp_path / "file.jsonl")] == ["choose", "the choose"]


def test_rows_that_cannot_be_asked_are_left_out_and_keep_their_numbers(tmp_path, model, capsys, caplog):
    """Of several turns, or too long with its answer; a system message is kept, and written with the prompt."""
    short = ("--leader", model, "--max-new-tokens", 3, "--rounds", 2)
    told = [{"role": "system", "content": "a"}, {"role": "user", "content": "choose"}]
    rows = [
        {"prompt": "choose " * 1100},
        {"prompt": told},
        {"prompt": [*told[1:], {"role": "assistant", "content": "b"}, *told[1:]]},
        {"prompt": "\ufeff the"[1:]},
    ]
    path = tmp_path / "prompts.json"
    path.write_bytes(json.dumps(rows).encode("utf-8-sig"))
    out = tmp_path / "a.jsonl"
    for _ in range(2):  # the second time it is all there
        assert start(path, out, *short) == 0
        assert [(row["row"], row["prompt"]) for row in rows_of(out)] == [(2, told), (4, " the")]
    assert "1 of more than the user's single turn" in caplog.text
    assert "1 that with an answer of 3 tokens, the Follower's turn and a reply of 3 tokens exceed" in caplog.text
    assert start(prompts_file(tmp_path, rows[:1]), tmp_path / "b.jsonl", *short) == 1
    assert "error: No prompt fits: 1 rows" in capsys.readouterr().err
    assert not (tmp_path / "b.jsonl").exists()


def test_a_mark_at_the_start_of_a_text_is_no_part_of_the_prompt(tmp_path, model, monkeypatch):
    short = ("--leader", model, "--max-new-tokens", 3, "--rounds", 1)
    (tmp_path / "p.txt").write_bytes("choose\n".encode("utf-8-sig"))
    assert start(tmp_path / "p.txt", tmp_path / "a.jsonl", *short) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("choose\n".encode("utf-8-sig"))))
    assert start("-", tmp_path / "b.jsonl", *short) == 0
    assert [row["prompt"] for name in "ab" for row in rows_of(tmp_path / f"{name}.jsonl")] == ["choose"] * 2


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path, model, monkeypatch, capsys):
    short = ("--leader", model, "--max-new-tokens", 3, "--rounds", 1)
    whole, out, honest, left = tmp_path / "whole.jsonl", tmp_path / "a.jsonl", os.write, [100]
    assert start(prompts_file(tmp_path), whole, *short) == 0
    first = b"".join(whole.read_bytes().splitlines(keepends=True)[:3])
    left[0] += len(first)

    def write(descriptor, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = honest(descriptor, data[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert start(prompts_file(tmp_path), out, *short) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: [Errno 28] No space left on device"
    assert out.read_bytes() == first
    assert start(prompts_file(tmp_path), out, *short) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_an_output_that_takes_nothing_is_one_line(tmp_path):
    """Standard output on a full disk, which Python would meet again at exit, with a traceback."""
    code = "import sys; from experiments import report as r; r.work = lambda _: print('x'); sys.exit(r.main(['runs']))"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "error: [Errno 28] No space left on device\n")


class LongerIsBetter:
    def prefer(self, prompts, a, b):
        return np.array([0.5 + 0.5 * np.sign(len(x) - len(y)) for x, y in zip(a, b, strict=True)])


def test_the_judge_holds_every_round_against_the_first(tmp_path, run, monkeypatch, capsys):
    monkeypatch.setattr(refining, "load_judge", lambda *_, **__: LongerIsBetter())
    out = tmp_path / "a.jsonl"
    assert start(prompts_file(tmp_path), out, "--leader", run, "--judge", "attributes") == 0
    printed = capsys.readouterr().out
    for number in (2, 3):
        lengths = [(len(row["answers"][number - 1]), len(row["answers"][0])) for row in rows_of(out)]
        mean = np.mean([0.5 + 0.5 * np.sign(a - b) for a, b in lengths])
        assert f"round {number}: {mean:.3f} (n = {len(lengths)})" in printed
    assert "Below 20 prompts there is no interval and no verdict" in printed


def test_a_judge_of_one_s_own_is_looked_at_before_anything_is_refined(tmp_path, run, capsys):
    (tmp_path / "mine.py").write_text(
        "def prefer(prompts, a, b):\n    return [len(y) > len(x) for x, y in zip(a, b)]\n"
    )
    out = tmp_path / "a.jsonl"
    judge = f"python,target={tmp_path}/mine.py:"
    assert start(prompts_file(tmp_path), out, "--leader", run, "--judge", judge + "preferr") == 1
    assert "defines no 'preferr'" in capsys.readouterr().err
    assert not out.exists()
    assert start(prompts_file(tmp_path), out, "--leader", run, "--judge", judge + "prefer") == 0
    assert "by the judge of kind python" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (["not json"], (), "prompts.jsonl, line 1: not JSON"),
        ([{"prompt": "x"}, {"prompt": 3}], (), 'line 2: "prompt" must be a text or a list of messages, not 3'),
        ([{"prompt": " "}], (), "1 with an empty prompt"),
        ([{"prompt": "x", "answer": "y"}, {"prompt": "x"}], (), 'line 2: "answer" must be a text, not None'),
        ([{"text": "x"}], (), 'needs a column "prompt", '),
        ([], (), "prompts.jsonl is empty"),
        ([{"prompt": "x", "answer": "y"}], ("--leader", "embedded"), "leave out --leader"),
        ([{"prompt": "x"}], ("--leader", "/no/such/model"), "Leader: there is no directory /no/such/model"),
        ([{"prompt": "x"}], ("--follower", "tests/nowhere"), "Follower: there is no directory tests/nowhere"),
        ([{"prompt": "x", "answer": "y"}], ("--follower", "tests/no"), "Follower: there is no directory tests/no"),
        ([{"prompt": "x"}], ("--rounds", "0"), "--rounds 0: must be at least 1"),
        ([{"prompt": "x"}], ("--temperature", "0"), "--temperature 0.0: must be positive"),
        ([{"prompt": "x"}], ("--rounds", "1", "--judge", "attributes"), "--rounds 1: must be at least 2"),
    ],
)
def test_wrong_input_is_one_line_and_a_status(tmp_path, capsys, rows, more, message):
    assert start(prompts_file(tmp_path, rows), tmp_path / "out.jsonl", *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_folders_that_hold_no_weights(tmp_path, capsys):
    manifests = {"run": '{"config": {"algorithm": {"name": "rloo"}, "model": {}}}', "other": "{}", "broken": "{"}
    for name, text in manifests.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    (tmp_path / "empty").mkdir()
    no_model = "is not a run that trained a language model"
    messages = {"run": "holds no checkpoint yet", "other": no_model, "broken": no_model, "empty": "neither a run"}
    for name, message in messages.items():
        assert start(prompts_file(tmp_path), tmp_path / "out.jsonl", "--leader", tmp_path / name) == 1
        assert message in capsys.readouterr().err
    assert start(tmp_path / "none.txt", tmp_path / "out.jsonl") == 1
    assert "There is no file" in capsys.readouterr().err
    assert start(tmp_path / "none.jsonl", tmp_path / "out.jsonl") == 1
    assert "There is no file" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_of_other_settings_or_prompts_is_left_alone(tmp_path, run, capsys):
    prompts, out = prompts_file(tmp_path), tmp_path / "out.jsonl"
    assert start(prompts, out, "--leader", run) == 0
    before = out.read_bytes()
    assert start(prompts, out, "--leader", run, "--seed", 1) == 1
    assert "with other settings (seed)" in capsys.readouterr().err
    assert start(prompts_file(tmp_path, [{"prompt": "choose"}, {"prompt": "b"}]), out, "--leader", run) == 1
    assert "line 2 is of another prompt" in capsys.readouterr().err
    assert out.read_bytes() == before
    (tmp_path / "out.settings.json").unlink()
    assert start(prompts_file(tmp_path), out, "--leader", run) == 1
    assert "by something else" in capsys.readouterr().err


def test_an_output_of_weights_that_changed_is_left_alone(tmp_path, model, run, capsys):
    """The path is the same: the run has gone on, or another adapter was put there."""
    copy, out = tmp_path / "copy", tmp_path / "out.jsonl"
    shutil.copytree(run, copy)
    assert start(prompts_file(tmp_path), out, "--leader", model, "--follower", copy) == 0
    shutil.copytree(copy / "checkpoint-000002", copy / "checkpoint-000011")
    assert start(prompts_file(tmp_path), out, "--leader", model, "--follower", copy) == 1
    assert "with other settings (follower)" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoint-000011")
    assert start(prompts_file(tmp_path), out, "--leader", model, "--follower", copy) == 0


def test_help_teaches():
    shown = subprocess.run(
        [sys.executable, "experiments/refine.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("prompts.txt", "--leader", "--follower", "goes on where it stopped", "round 1", "run directory"):
        assert word in " ".join(shown.replace("│", " ").split())
