"""The benchmark compares like with like: the plain step has our loss, and its tables say what was measured."""

import json
from argparse import Namespace

import pytest
import torch

from benchmarks import llm_step
from llm.algorithms import stackelberg_gda
from tests.llm.tiny import move

PHASES = ("read", "judge", "reference", "forward", "backward")
SETTINGS = {
    "model": "tiny",
    "adapters": "quickstart",
    "batch": 3,
    "new_tokens": 4,
    "prompt_tokens": 5,
    "dtype": "float32",
    "compile": False,
    "threads": 1,
    "rounds": 2,
}


def test_the_plain_step_has_the_same_loss_and_gradient_as_ours():
    ours, plain = llm_step.Ours(Namespace(**SETTINGS)), llm_step.Plain(Namespace(**SETTINGS))
    move(ours.policy, seed=0)
    plain.model.load_state_dict(ours.policy.model.state_dict())
    experience = stackelberg_gda.collect(llm_step.SPEC, ours.collector, ours.prompts, 0)
    loss, _ = stackelberg_gda.loss(llm_step.SPEC, ours.policy.logprobs(experience.batch, experience.trunk), experience)

    ids, owners = experience.batch.ids, experience.batch.owners
    answers, replies = (ids[owners[role]].view(3, 4).tolist() for role in ("leader", "follower"))
    prompts = [plain.chat.prompt(x) for x in plain.prompts]
    contexts = [x + y + plain.chat.turn(y) for x, y in zip(prompts, answers, strict=True)]
    with torch.no_grad(), plain.model.disable_adapter():
        base = plain.logprobs(prompts, answers), plain.logprobs(contexts, replies)
    theirs = plain.loss(experience.signal, plain.logprobs(prompts, answers), plain.logprobs(contexts, replies), *base)
    torch.testing.assert_close(loss, theirs, atol=1e-5, rtol=1e-5)
    ours_grad = torch.autograd.grad(loss, [p for _, p in ours.policy.trainable()])
    for a, b in zip(ours_grad, torch.autograd.grad(theirs, plain.parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def result():
    steps = {"ours": [1.0, 2.0], "plain": [4.0, 6.0]}
    return {
        "settings": SETTINGS,
        "machine": {"device": "a processor", "torch": "2"},
        "limits": {"bytes_per_second": 1e9, "flops_per_second": 1e9},
        "rounds": {
            method: [{"step": s, "generate": s / 2, "decode": s / 4, **dict.fromkeys(PHASES, 1.0)} for s in each]
            for method, each in steps.items()
        },
        "facts": {
            "ours": {
                "peak_memory_gib": 1.0,
                "decode_bytes": 1e8,
                "decode_flops": 2e8,
                **{f"{phase}_flops": 5e8 for phase in PHASES},
            },
            "plain": {"peak_memory_gib": 2.0},
        },
    }


def test_the_table_holds_medians_ratios_and_the_limits():
    text = llm_step.report(result())
    assert "| plain | 5.00 | 4.00 – 6.00 | 5 | 2.50 | 2.50 | 2.0 | 3.5× (3.0 – 4.0) |" in text
    assert "| decode | 0.38 | 25% | 0.20 | 53% |" in text  # the floor is the larger of bytes and operations


def test_the_readme_keeps_what_is_not_between_the_markers(tmp_path):
    readme, path = tmp_path / "README.md", tmp_path / "llm_step_tiny.json"
    path.write_text(json.dumps(result()))
    readme.write_text("# Benchmarks\n\nabove\n")
    llm_step.write_readme(readme, [path])
    once = readme.read_text()
    assert once.startswith("# Benchmarks\n\nabove\n")
    readme.write_text(once + "\nbelow\n")
    llm_step.write_readme(readme, [path])
    assert readme.read_text() == once + "\nbelow\n"


def test_a_missing_peer_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["llm_step.py"])
    monkeypatch.setattr(llm_step.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        llm_step.parse()
    assert "pip install" in capsys.readouterr().err
