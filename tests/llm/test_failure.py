"""A step that failed can be computed again from what it left behind."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from llm import failure, finite
from llm.config import TrainConfig
from llm.judges.matrix import MatrixJudge
from llm.train import train
from slhf.algorithms import RLOO, NashMD, StackelbergGDA
from slhf.errors import InvalidData, TrainingError
from slhf.runs import Run
from tests.llm.killing import GAME, LABELS, build_model

pytestmark = pytest.mark.numeric

CONFIG = TrainConfig(steps=4, batch_size=3, checkpoint_every=1)


class Infinite:
    """A reward that is once infinite, for the second answer of step 2."""

    def __init__(self):
        self.asked = 0

    def score(self, prompts, answers):
        self.asked += 1
        rewards = torch.arange(len(answers), dtype=torch.float64).numpy()
        if self.asked == 3:
            rewards[1] = math.inf
        return rewards


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(tmp_path):
    return Run.open(tmp_path, "x", {})


def test_an_infinite_reward_is_saved_and_named(run, model):
    judge = MatrixJudge(GAME, LABELS)
    with pytest.raises(TrainingError, match=r"rewards are not all finite.*failed_step.*python -m llm\.failure"):
        train(RLOO(0.01), judge, [finite.PROMPT], run, model, CONFIG, reward=Infinite())
    facts = json.loads((run.path / "failed_step" / "step.json").read_text())
    facts |= facts["experience"]
    assert facts["step"] == 2
    assert facts["algorithm"]["name"] == "rloo"
    assert facts["texts"]["prompt"] == [finite.PROMPT] * 6
    assert all(text in LABELS for text in facts["texts"]["leader"])
    tensors = load_file(run.path / "failed_step" / "tensors.safetensors")
    assert set(tensors) == {"ids", "attention", "reference", "signal", "sampled", "logp", "owner/leader"}
    assert tensors["signal"].tolist() == [0, math.inf, 2, 3, 4, 5]
    assert [row["step"] for row in run.metrics()] == [0, 1]
    # the run goes on from its last checkpoint once the cause is gone
    train(RLOO(0.01), judge, [finite.PROMPT], run, model, CONFIG, reward=Infinite())
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "sharing"),
    [(StackelbergGDA(0.01, follower_samples=2), "one"), (StackelbergGDA(0.01), "two"), (NashMD(0.01), "one")],
    ids=["shared", "two adapters", "nash_md"],
)
def test_the_replay_is_the_step(tmp_path, run, model, spec, sharing, monkeypatch, capsys):
    """Step 2 fails for a reason that the replay does not share; it must be what an honest step 2 is."""
    judge, whole = MatrixJudge(GAME, LABELS), Run.open(tmp_path, "whole", {})
    model = dataclasses.replace(model, sharing=sharing)
    train(spec, judge, [finite.PROMPT], whole, model, CONFIG)
    clip, steps = torch.nn.utils.clip_grad_norm_, iter(range(100))
    with monkeypatch.context() as patch:
        broken = {2: math.nan}
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: clip(*args) * broken.get(next(steps), 1.0))
        with pytest.raises(TrainingError, match="norm is nan"):
            train(spec, judge, [finite.PROMPT], run, model, CONFIG)
    again, honest = failure.replay(run.path / "failed_step"), whole.metrics()[2]
    assert torch.equal(again.logp, again.recorded)
    assert again.loss == pytest.approx(honest["loss"], rel=1e-6)
    assert again.grad_norm == pytest.approx(honest["grad_norm"], rel=1e-5)
    assert failure.main([str(run.path / "failed_step")]) == 0
    printed = capsys.readouterr().out
    assert "norm is nan" in printed
    assert f"loss {again.loss}" in printed
    assert "signal: finite" in printed


def test_a_directory_without_a_failed_step_is_named(tmp_path):
    with pytest.raises(InvalidData, match="no failed step"):
        failure.replay(tmp_path)
