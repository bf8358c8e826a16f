"""Every architecture goes through all of it in small: train, be interrupted, resume, evaluate, refine and export."""

import json

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from experiments import export, refine, run
from experiments.config import load_sweep
from llm import checkpoint
from llm.data import load_prompts
from llm.judges.local_lm import LocalLMJudge
from llm.train import train
from slhf.algorithms import StackelbergGDA
from slhf.errors import JudgeError
from slhf.runs import Run
from tests.llm.architectures import ARCHITECTURES, build

SWEEP = """
name: tiny
seed: 3
model: {{name: {model}, dtype: float32, max_new_tokens: 4, lora: {{rank: 2, modules: [{modules}]}}}}
judge: {{kind: local_lm, model: {model}, dtype: float32, template: "{{prompt}} A {{a}} B {{b}}"}}
prompts: {{source: {prompts}}}
train: {{steps: 2, batch_size: 2, checkpoint_every: 1}}
evaluation: {{prompts: 2, rounds: 2, resamples: 20}}
algorithms:
  - {{name: stackelberg_gda, learning_rate: 0.01}}
  - {{name: nash_md, learning_rate: 0.01}}
"""


def write_sweep(folder, name):
    """The sweep of one architecture, whose model is its own judge."""
    model, prompts = build(folder / "model", name), folder / "prompts.jsonl"
    rows = [{"prompt": f"Say {i}.", "split": "train" if i < 3 else "heldout"} for i in range(5)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sweep = folder / "sweep.yaml"
    modules = ", ".join(ARCHITECTURES[name].modules)
    sweep.write_text(SWEEP.format(model=model, prompts=prompts, modules=modules), encoding="utf-8")
    return sweep


def interrupted(monkeypatch):
    """A judge that fails once, in the second step."""
    honest, asked = LocalLMJudge.prefer, []

    def prefer(self, prompts, a, b):
        asked.append(len(prompts))
        if len(asked) == 2:
            raise JudgeError("gone")
        return honest(self, prompts, a, b)

    monkeypatch.setattr(LocalLMJudge, "prefer", prefer)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_whole_sweep(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # two thirds of the time
    sweep, out = write_sweep(tmp_path, name), tmp_path / "runs"
    with monkeypatch.context() as patch:
        interrupted(patch)
        assert run.main([str(sweep), "--out", str(out)]) == 1
    (trained,) = (out / "tiny").glob("stackelberg_gda-*")
    assert [path.name for path in checkpoint.find_all(trained)] == ["checkpoint-000001"]
    assert run.main([str(sweep), "--out", str(out)]) == 0
    summary = json.loads((out / "tiny" / "summary.json").read_text())
    players = {"Base", "Base as Follower", "SLHF κ=5 Leader", "SLHF κ=5 Follower", "Nash-MD-PG"}
    assert {rate["row"] for rate in summary["win_rates"]} == players
    assert_resumed_exactly(tmp_path, sweep, trained)
    assert_refined(tmp_path, trained)
    assert_exported(tmp_path, trained, name)
    assert "error" not in capsys.readouterr().err.replace("error: gone", "")


def assert_resumed_exactly(folder, sweep, trained):
    """The run that was cut short is, to the bit, the one that was not."""
    (settings, *_), whole = load_sweep(sweep), Run.open(folder, "whole", {})
    judge = LocalLMJudge.load(settings.judge, "cpu")
    prompts = load_prompts(settings.prompts, "train")
    train(StackelbergGDA(learning_rate=0.01), judge, prompts, whole, settings.model, settings.train, settings.seed)
    ours, theirs = (checkpoint.latest(path) / "adapter/adapter_model.safetensors" for path in (trained, whole.path))
    assert ours.read_bytes() == theirs.read_bytes()
    assert any(bool(value.any()) for key, value in load_file(ours).items() if "lora_B" in key)  # and it has moved


def assert_refined(folder, trained):
    answered = folder / "refined.jsonl"
    prompts = folder / "prompts.jsonl"
    assert refine.main([str(prompts), "--leader", str(trained), "--rounds", "3", "--out", str(answered)]) == 0
    assert [len(json.loads(line)["answers"]) for line in answered.read_text().splitlines()] == [3] * 5


def assert_exported(folder, trained, name):
    merged, outputs = folder / "merged", folder / "outputs.json"
    assert export.main([str(trained), "--to", "lm_eval", "--out", str(merged)]) == 0
    known = GenerationConfig.from_pretrained(merged).eos_token_id
    end = AutoTokenizer.from_pretrained(merged).convert_tokens_to_ids(ARCHITECTURES[name].end)
    assert end in (known if isinstance(known, list) else [known])  # whoever samples it stops there
    prompts = folder / "prompts.jsonl"
    asked = ["--to", "alpaca_eval", "--prompts", str(prompts), "--out", str(outputs), "--role", "follower"]
    assert export.main([str(trained), *asked]) == 0
    assert len(json.loads(outputs.read_text())) == 2
