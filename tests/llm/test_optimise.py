"""Micro-batches and checkpointed layers change no gradient; schedules; what stops a step."""

import dataclasses
import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import finite
from llm.config import TrainConfig
from llm.experience import Experience
from llm.microbatch import logprobs, micro_batches, read_trunk
from llm.optimise import backward, make_optimizer, rate_factor, recomputing, update
from llm.policy import LoRA, Policy, TokenBatch
from slhf.algorithms import RLOO, NashMD, StackelbergGDA
from slhf.errors import InvalidParameter, TrainingError
from tests.llm.tiny import answers, conversation, move, pack, tiny_policy

pytestmark = pytest.mark.numeric

SPECS = [
    StackelbergGDA(timescale=3, tau_leader=0.3, tau_follower=0.2, leader_samples=2, follower_samples=3),
    RLOO(tau=0.3, samples=4),
    NashMD(tau=0.3, samples=4),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("model"), moved=True)


def experience_of(policy, spec, prompts=3):
    """Answers of many lengths; the rows of a leave-one-out group differ in length, so micro-batches split them."""
    rng = random.Random(0)
    pool = answers(policy, ("a", "b"), 5)
    both = isinstance(spec, StackelbergGDA)
    group = spec.leader_samples * spec.follower_samples if both else spec.samples
    leaders = [rng.choice(pool) for _ in range(prompts * group)]
    if both:  # the replies to one answer share it
        leaders = [leaders[i - i % spec.follower_samples] for i in range(len(leaders))]
    batch = pack(policy, [conversation(policy, y, rng.choice(pool) if both else None) for y in leaders])
    with policy.reference():
        reference = logprobs(policy, batch, None)
    signal = torch.tensor([rng.random() for _ in leaders])
    return Experience(batch, reference, signal, {"prompt": [], "leader": [], "other": []})


def trunk_policy(directory):
    """Only the last layer is adapted, so that the first is read once for policy and reference."""
    finite.build_model(directory, ("a", "b"), seed=1)
    policy = Policy.load(str(directory), LoRA(rank=4, layers=1, modules=finite.MODULES), dtype="float32")
    move(policy, seed=2)
    return policy


def gradient_of(policy, spec, experience, budget, checkpointing=False):
    for _, p in policy.trainable():
        p.grad = None
    with recomputing(policy, checkpointing):
        loss, metrics, logp = backward(spec, policy, experience, budget)
    return loss, metrics, logp, torch.cat([p.grad.flatten() for _, p in policy.trainable()])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_gradient_is_the_same_whatever_the_micro_batches(policy, spec, share):
    experience = experience_of(policy, spec)
    budget = 1 + int(share * experience.batch.ids.numel())
    assert len(micro_batches(experience.batch, budget)) > 1
    loss, metrics, logp, whole = gradient_of(policy, spec, experience, None)
    split_loss, split_metrics, split_logp, split = gradient_of(policy, spec, experience, budget)
    assert float((split - whole).norm() / whole.norm()) < 1e-6
    assert whole.norm() > 1e-3
    torch.testing.assert_close(split_loss, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split_logp, logp, rtol=1e-6, atol=1e-6)
    assert split_metrics == pytest.approx(metrics, abs=1e-6)


def test_micro_batches_slice_the_trunk(tmp_path):
    policy = trunk_policy(tmp_path)
    experience = experience_of(policy, SPECS[0])
    budget = experience.batch.ids.numel() // 2
    trunk = read_trunk(policy, experience.batch, budget)
    assert trunk is not None
    real = experience.batch.attention.bool()
    torch.testing.assert_close(trunk[real], policy.trunk(experience.batch)[real], rtol=1e-6, atol=1e-6)
    *_, whole = gradient_of(policy, SPECS[0], experience, None)
    with_trunk = dataclasses.replace(experience, trunk=trunk)
    *_, split = gradient_of(policy, SPECS[0], with_trunk, budget)
    assert float((split - whole).norm() / whole.norm()) < 1e-6
    # what the trunk says is used: another trunk is another gradient
    *_, other = gradient_of(policy, SPECS[0], dataclasses.replace(experience, trunk=1.1 * trunk), budget)
    assert float((other - whole).norm() / whole.norm()) > 1e-3


def test_one_micro_batch_costs_no_second_forward_pass(policy, monkeypatch):
    experience, calls = experience_of(policy, SPECS[0]), []
    honest = type(policy).logprobs
    monkeypatch.setattr(type(policy), "logprobs", lambda *args: calls.append(1) or honest(*args))
    gradient_of(policy, SPECS[0], experience, 10**6)
    assert len(calls) == 1
    calls.clear()
    gradient_of(policy, SPECS[0], experience, 200)
    assert len(calls) == 2 * len(micro_batches(experience.batch, 200))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 200))
def test_micro_batches_hold_every_row_once_within_the_budget_and_pad_little(lengths, budget):
    width = max(lengths)
    attention = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    batch = TokenBatch(torch.zeros_like(attention), attention, {"leader": attention.bool()})
    parts = micro_batches(batch, budget)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(len(lengths)))
    for part in parts:
        rows = batch.rows(part)
        assert len(part) == 1 or rows.ids.numel() <= budget
        assert rows.ids.shape[1] == max(lengths[i] for i in part.tolist())
    # sorted by length: no part is longer than the shortest row of the part before it
    bounds = [(max(lengths[i] for i in p.tolist()), min(lengths[i] for i in p.tolist())) for p in parts]
    if len(parts) > 1:
        assert all(before[1] >= after[0] for before, after in itertools.pairwise(bounds))


def test_log_probabilities_in_parts_are_in_their_rows(policy):
    batch = experience_of(policy, SPECS[1]).batch
    with torch.no_grad():
        whole = policy.logprobs(batch)
    torch.testing.assert_close(logprobs(policy, batch, 60), whole, rtol=1e-6, atol=1e-6)


def test_checkpointed_layers_give_the_same_gradient_and_run_twice(policy):
    experience, forwards = experience_of(policy, SPECS[0]), []
    layer = policy.decoder.layers[0]
    hook = layer.mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
    *_, plain = gradient_of(policy, SPECS[0], experience, None)
    assert len(forwards) == 1
    *_, recomputed = gradient_of(policy, SPECS[0], experience, None, checkpointing=True)
    assert len(forwards) == 3
    hook.remove()
    assert torch.equal(plain, recomputed)
    assert not any(module.training for module in policy.model.modules())
    assert not layer.gradient_checkpointing


def test_a_checkpointed_layer_runs_again_with_the_adapter_it_ran_with(tmp_path):
    policy = tiny_policy(tmp_path, moved=True, sharing="two")
    experience = dataclasses.replace(experience_of(policy, SPECS[0]), sharing="two")
    *_, plain = gradient_of(policy, SPECS[0], experience, None)
    *_, recomputed = gradient_of(policy, SPECS[0], experience, None, checkpointing=True)
    assert torch.equal(plain, recomputed)


def test_checkpointing_keeps_less_for_the_backward_pass(policy):
    def kept(checkpointing):
        seen = {}

        def keep(tensor):
            seen[tensor.data_ptr()] = tensor.numel()
            return tensor

        batch = experience_of(policy, SPECS[0]).batch
        with recomputing(policy, checkpointing), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            policy.logprobs(batch)
        return sum(seen.values())

    assert kept(True) < 0.7 * kept(False)


def test_dropout_stays_off_while_layers_are_checkpointed(policy):
    dropout = policy.decoder.layers[0].resid_dropout
    probability, dropout.p = dropout.p, 0.5
    experience = experience_of(policy, SPECS[0])
    *_, plain = gradient_of(policy, SPECS[0], experience, None)
    *_, recomputed = gradient_of(policy, SPECS[0], experience, None, checkpointing=True)
    dropout.p = probability
    assert torch.equal(plain, recomputed)


def factors(**settings):
    config = TrainConfig(**settings)
    return [rate_factor(config, step) for step in range(config.steps)]


def test_schedules():
    assert factors(steps=4) == [1, 1, 1, 1]
    assert factors(steps=4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert factors(steps=4, schedule="cosine") == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert factors(steps=8, schedule="linear", warmup=0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 0.75, 0.5, 0.25])
    assert factors(steps=3, warmup=0.1) == pytest.approx([0.5, 1, 1])  # a warm-up is at least one step


@given(st.integers(1, 50), st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 0.99))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_learning_rate_is_never_zero_and_rises_once(steps, schedule, warmup):
    rates = factors(steps=steps, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"tokens_per_micro_batch": 0},
        {"schedule": "cosin"},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": -1.0},
        {"adam_betas": (2.0, 0.9)},
        {"checkpoint_every": 0},
        {"keep_checkpoints": 0},
        {"keep_every": 0},
        {"trackers": ("tensorbord",)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(InvalidParameter, match=rf"TrainConfig\.{next(iter(wrong))}"):
        TrainConfig(**wrong)


class Step:
    """One update of a fresh policy."""

    def __init__(self, directory, **settings):
        self.policy = tiny_policy(directory, moved=True)
        self.spec, self.config = StackelbergGDA(0.01), TrainConfig(**settings)
        self.experience = experience_of(self.policy, self.spec)
        self.optimizer = make_optimizer(self.spec, self.policy, self.config)

    def __call__(self, **changes):
        experience = dataclasses.replace(self.experience, **changes)
        return update(self.spec, self.policy, experience, self.optimizer, self.config, {}, inspect=True)


def test_a_step_moves_the_policy_at_its_rate(tmp_path):
    step = Step(tmp_path, steps=10, warmup=0.5)
    before = [p.detach().clone() for _, p in step.policy.trainable()]
    _, metrics, _ = step()
    assert metrics["learning_rate"] == pytest.approx(0.01 / 6)
    # Adam's first step is the learning rate in every coordinate that has a gradient
    moved = max(float((p - q).detach().abs().max()) for (_, p), q in zip(step.policy.trainable(), before, strict=True))
    assert moved == pytest.approx(0.01 / 6, rel=1e-2)


def test_gradients_are_clipped_to_the_limit(tmp_path):
    step = Step(tmp_path, max_grad_norm=1e-3)
    _, metrics, _ = step()
    norm = torch.cat([p.grad.flatten() for _, p in step.policy.trainable() if p.grad is not None]).norm()
    assert metrics["grad_norm"] > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_step(tmp_path, bad):
    step = Step(tmp_path)
    before = [p.detach().clone() for _, p in step.policy.trainable()]
    signal = step.experience.signal.clone()
    signal[1] = bad
    with pytest.raises(TrainingError, match="preferences or rewards"):
        step(signal=signal)
    with pytest.raises(TrainingError, match="loss is"):
        step(reference=torch.full_like(step.experience.reference, bad))
    assert all(torch.equal(p, q) for (_, p), q in zip(step.policy.trainable(), before, strict=True))


def test_a_gradient_that_is_not_finite_stops_the_step(tmp_path):
    step = Step(tmp_path)
    before = [p.detach().clone() for _, p in step.policy.trainable()]
    step.policy.trainable()[0][1].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="gradient's norm is nan"):
        step()
    assert all(torch.equal(p, q) for (_, p), q in zip(step.policy.trainable(), before, strict=True))


def test_an_optimiser_without_parameters_is_refused(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path)
    monkeypatch.setattr(policy, "trainable", lambda role=None: [])
    with pytest.raises(TrainingError, match="no trainable parameter"):
        make_optimizer(StackelbergGDA(), policy, TrainConfig())


def test_an_adapter_that_no_gradient_reaches_is_refused(tmp_path):
    """A disabled adapter is peft's way of training nothing in silence."""
    step = Step(tmp_path)
    with pytest.raises(TrainingError, match="No gradient"), step.policy.reference():
        step()


def test_an_adapter_that_does_not_move_is_refused(tmp_path, monkeypatch):
    step = Step(tmp_path)
    monkeypatch.setattr(step.optimizer, "step", lambda: None)
    with pytest.raises(TrainingError, match="leader's parameters unchanged"):
        step()


def test_a_tie_is_not_an_error(tmp_path):
    """Advantages of exactly zero give a gradient of zero: nothing moves, and nothing is wrong."""
    step = Step(tmp_path)
    step.spec = StackelbergGDA(0.01, tau_leader=0.0, tau_follower=0.0)
    _, metrics, _ = step(signal=torch.full_like(step.experience.signal, 0.5))
    assert metrics["grad_norm"] == 0
