"""The loop: it learns, it resumes to the bit, its checkpoints are ordinary, and it stops when something is wrong."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llm import checkpoint, finite
from llm.config import ModelConfig, TrainConfig
from llm.judges.matrix import MatrixJudge
from llm.policy import LoRA, Policy
from llm.train import train
from slhf.algorithms import RLOO, NashMD, StackelbergGDA
from slhf.errors import ConfigError, JudgeError, MissingResource, TrainingError
from slhf.runs import Run

pytestmark = pytest.mark.numeric

LABELS = ["a", "b", "c"]
GAME = np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])
SPEC = StackelbergGDA(learning_rate=0.01)


class Failing(MatrixJudge):
    """Fails at its ``at``-th question, as a lost connection would."""

    def __init__(self, at):
        super().__init__(GAME, LABELS)
        self.left = at

    def prefer(self, prompts, a, b):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone")
        return super().prefer(prompts, a, b)


@pytest.fixture
def model(tmp_path):
    finite.build_model(tmp_path / "model", LABELS, seed=0)
    return ModelConfig(
        str(tmp_path / "model"), "float32", 1.0, max_new_tokens=1, lora=LoRA(rank=2, modules=finite.MODULES)
    )


def weights(policy):
    return {name: p.detach().clone() for name, p in policy.trainable()}


def timeless(run):
    """The metrics of a run but for times and memory."""
    return [
        {key: value for key, value in row.items() if "second" not in key and "memory" not in key}
        for row in run.metrics()
    ]


@pytest.mark.parametrize("interrupted_at", [0, 3, 7])
@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (SPEC, {}),
        (SPEC, {"sharing": "two"}),
        (NashMD(learning_rate=0.01), {"lora": None}),
        (StackelbergGDA(0.01, leader_samples=2), {"gradient_checkpointing": True, "tokens_per_micro_batch": 200}),
    ],
    ids=["shared", "two adapters", "all weights", "micro-batches"],
)
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, model, spec, settings, interrupted_at):
    training = {key: value for key, value in settings.items() if not hasattr(model, key)}
    model = dataclasses.replace(model, **{key: value for key, value in settings.items() if hasattr(model, key)})
    config = TrainConfig(steps=8, batch_size=16, checkpoint_every=2, schedule="linear", **training)
    judge = MatrixJudge(GAME, LABELS)
    whole = Run.open(tmp_path / "whole", "x", {})
    expected = weights(train(spec, judge, [finite.PROMPT], whole, model, config, seed=1))

    broken = Run.open(tmp_path / "broken", "x", {})
    with pytest.raises(JudgeError, match="gone"):
        train(spec, Failing(interrupted_at), [finite.PROMPT], broken, model, config, seed=1)
    resumed = weights(train(spec, judge, [finite.PROMPT], broken, model, config, seed=1))

    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert timeless(whole) == timeless(broken)
    assert [row["step"] for row in whole.metrics()] == list(range(8))
    assert whole.metrics("samples.jsonl") == broken.metrics("samples.jsonl")


def test_another_seed_is_another_run(tmp_path, model):
    config = TrainConfig(steps=2, batch_size=16)
    runs = [Run.open(tmp_path / str(seed), "x", {}) for seed in (1, 2)]
    judge = MatrixJudge(GAME, LABELS)
    a, b = (
        weights(train(SPEC, judge, [finite.PROMPT], r, model, config, s)) for r, s in zip(runs, (1, 2), strict=True)
    )
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("sharing", ["one", "two"])
def test_the_adapters_load_with_plain_peft(tmp_path, model, sharing):
    run, model = Run.open(tmp_path, "x", {}), dataclasses.replace(model, sharing=sharing)
    policy = train(SPEC, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, TrainConfig(steps=3, batch_size=16))
    saved = checkpoint.latest(run.path)
    assert saved is not None
    assert not [path for path in saved.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    ids = torch.tensor([policy.chat.prompt(finite.PROMPT)], device=policy.device)
    answered = []
    for role, folder in (("leader", "adapter"), ("follower", "adapter/follower" if sharing == "two" else "adapter")):
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model.name), str(saved / folder))
        plain.to(policy.device)
        with torch.no_grad(), policy.acting(role):
            answered.append(plain(input_ids=ids).logits)
            torch.testing.assert_close(answered[-1], policy.model(input_ids=ids).logits)
    assert torch.equal(*answered) == (sharing == "one")


def test_every_number_of_a_step_is_logged(tmp_path, model):
    run = Run.open(tmp_path, "x", {})
    spec = StackelbergGDA(0.01, follower_samples=2)
    two = dataclasses.replace(model, sharing="two")
    train(spec, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, two, TrainConfig(steps=2, batch_size=4))
    roles = ("kl", "entropy", "token_entropy", "tokens", "ended", "base_loglik", "grad_norm", "reward")
    of_roles = {f"{role}_{name}" for role in ("leader", "follower") for name in roles}
    phases = {f"seconds_{phase}" for phase in ("generate", "judge", "reference", "update")}
    others = {"step", "loss", "grad_norm", "learning_rate", "preference", "follower_preferred", "exploitability"}
    speed = {"sampled_tokens_per_second", "trained_tokens_per_second", "peak_memory_gib"}
    for row in run.metrics():
        row.pop("peak_device_memory_gib", None)
        assert set(row) == of_roles | phases | others | speed | {"sampler_gap_mean", "sampler_gap_max"}
        assert row["grad_norm"] ** 2 == pytest.approx(row["leader_grad_norm"] ** 2 + row["follower_grad_norm"] ** 2)


def test_a_leader_that_rests_is_no_error(tmp_path, model):
    run, two = Run.open(tmp_path, "x", {}), dataclasses.replace(model, sharing="two")
    spec, config = StackelbergGDA(0.01, leader_interval=2), TrainConfig(steps=3, batch_size=4, checkpoint_every=1)
    with pytest.raises(JudgeError):
        train(spec, Failing(2), [finite.PROMPT], run, two, config)
    train(spec, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, two, config)  # goes on with a step at which it rests
    norms = [row["leader_grad_norm"] for row in run.metrics()]
    assert norms[0] == norms[2] == 0 < norms[1]


def test_an_adapter_of_one_role_that_does_not_train_is_named(tmp_path, model, monkeypatch):
    two = dataclasses.replace(model, sharing="two")
    honest = Policy.parameter_groups

    def copies(policy, rate):  # the optimiser gets a copy of the Follower's parameters: it moves nothing that plays
        leader, follower = honest(policy, rate)
        return [leader, {**follower, "params": [torch.nn.Parameter(p.detach().clone()) for p in follower["params"]]}]

    monkeypatch.setattr(Policy, "parameter_groups", copies)
    with pytest.raises(TrainingError, match="no gradient reached the follower's parameters"):
        train(SPEC, MatrixJudge(GAME, LABELS), [finite.PROMPT], Run.open(tmp_path, "x", {}), two)


def test_a_runaway_learning_rate_stops_the_run(tmp_path, model):
    run = Run.open(tmp_path, "x", {})
    spec = StackelbergGDA(learning_rate=1e30)
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train(spec, MatrixJudge(GAME, LABELS), [finite.PROMPT], run, model, TrainConfig(steps=5, batch_size=16))


def test_rloo_needs_a_reward(tmp_path, model):
    with pytest.raises(ConfigError, match="scalar reward"):
        train(RLOO(), MatrixJudge(GAME, LABELS), [finite.PROMPT], Run.open(tmp_path, "x", {}), model)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(MissingResource, match="/no/such/model"):
        train(SPEC, MatrixJudge(GAME, LABELS), ["x"], Run.open(tmp_path, "x", {}), ModelConfig(name="/no/such/model"))


def test_modules_that_the_model_does_not_have_are_named(tmp_path, model):
    wrong = ModelConfig(model.name, "float32", lora=LoRA(modules=("no_such_proj",)))
    with pytest.raises(ConfigError, match="no_such_proj"):
        train(SPEC, MatrixJudge(GAME, LABELS), ["x"], Run.open(tmp_path, "x", {}), wrong)


def test_more_layers_than_the_model_has(tmp_path, model):
    too_many = ModelConfig(model.name, "float32", lora=LoRA(layers=3, modules=finite.MODULES))
    with pytest.raises(ConfigError, match="2 layers"):
        train(SPEC, MatrixJudge(GAME, LABELS), ["x"], Run.open(tmp_path, "x", {}), too_many)
