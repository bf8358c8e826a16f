"""Whatever is combined, what is collected and its gradient are those of the plain way: one row, one role at a time."""

import copy
import itertools

import numpy as np
import pytest
import torch

from llm import finite
from llm.algorithms import implementation
from llm.experience import Collector, Experience
from llm.generation import TransformersGenerator
from llm.optimise import backward, recomputing
from llm.policy import LoRA, Policy
from slhf.algorithms import EGPO, SPO, NashMD, OnlineDPO, StackelbergGDA
from tests.llm.tiny import move

pytestmark = pytest.mark.numeric

PROMPTS = [finite.PROMPT, f"{finite.PROMPT} answer", "answer prompt answer", "prompt"]
STACKELBERG = StackelbergGDA(timescale=3, tau_leader=0.3, tau_follower=0.2, leader_samples=2, follower_samples=2)
OTHERS = [SPO(tau=0.3, samples=3), NashMD(tau=0.3, mixture=0.25, samples=2), EGPO(tau=0.3), OnlineDPO(samples=2)]
ADAPTERS = [
    pytest.param(*case, id=" ".join(map(str, case)))
    for case in itertools.product(("one", "two"), (False, True), (None, 1))
]
"""Sharing, whether training starts from an adapter (so that the reference is one), and how many layers are adapted."""


class Judge:
    """Some preference between 0 and 1, of two texts alone."""

    def prefer(self, prompts, a, b):
        del prompts
        return np.array(
            [1 / (1 + np.exp(len(y) - 0.7 * len(x) + 0.3 * x.count("a"))) for x, y in zip(a, b, strict=True)]
        )


def load(directory, sharing, started, layers):
    """A policy away from its reference, whose answers may end."""
    finite.build_model(directory / "base", ("a", "b"), seed=1)
    lora = LoRA(rank=4, layers=layers, modules=finite.MODULES)

    def policy(**settings):
        settings = {"dtype": "float32", "temperature": 2.0, **settings}
        loaded = Policy.load(str(directory / "base"), lora, **settings)
        move(loaded, seed=2, scale=0.15)
        return loaded

    if started:
        policy().save(directory / "start")
    loaded = policy(sharing=sharing, start_from=directory / "start" if started else None)
    may_end(loaded.head, loaded)
    return loaded


def may_end(head, policy):
    with torch.no_grad():
        head.bias[policy.chat.eos] = 0.0


def rewriting(policy):
    """The same policy behind a template that does not keep earlier turns."""
    policy = copy.copy(policy)
    policy.chat = copy.copy(policy.chat)
    policy.chat._turn, policy.chat.continues = [], False
    return policy


def plainly(policy, experience, reference=False):
    """(R, T): log-probabilities of the scored tokens, from the whole model's logits, one row and role at a time."""
    batch = experience.batch
    rows = []
    for b, length in enumerate(batch.attention.sum(1).tolist()):
        row = torch.zeros(batch.ids.shape[1])
        for role, owner in batch.owners.items():
            if owner[b].any():
                with policy.reference() if reference else policy.acting(role):
                    causal = policy._frozen if policy.full and reference else policy.model
                    logits = causal(input_ids=batch.ids[b : b + 1, :length]).logits[0, :-1] / policy.temperature
                chosen = logits.log_softmax(-1).gather(1, batch.ids[b, 1:length, None]).squeeze(1)
                row = row + torch.cat([torch.zeros(1), chosen, torch.zeros(len(row) - length)]) * owner[b]
        rows.append(row)
    return torch.stack(rows)


def flat(policy):
    return torch.cat([p.grad.flatten() for _, p in policy.trainable()])


def check(policy, spec):
    """The experience and its gradient, read in parts by checkpointed layers, against the plain way; both are used."""
    at = Collector(policy, TransformersGenerator(policy), Judge(), 3, 0, tokens_per_micro_batch=90)
    experience = implementation(spec).collect(spec, at, PROMPTS, step=0)
    batch = experience.batch
    with torch.no_grad():
        reference, logp = plainly(policy, experience, reference=True), plainly(policy, experience)
    torch.testing.assert_close(experience.reference, reference, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(experience.sampled, logp, rtol=1e-5, atol=5e-5)
    lengths = batch.owners["leader"].sum(1)
    assert lengths[lengths > 0].min() < lengths.max() == 3  # some ended, some were cut off
    assert (logp - reference).abs().max() > 0.1

    policy.model.zero_grad()
    plain = Experience(batch, reference, experience.signal, experience.texts, sharing=policy.sharing)
    implementation(spec).loss(spec, plainly(policy, plain), plain)[0].backward()
    expected = flat(policy)
    for budget, checkpointing in ((None, False), (90, True)):
        policy.model.zero_grad()
        with recomputing(policy, checkpointing):
            backward(spec, policy, experience, budget)
        assert float((flat(policy) - expected).norm() / expected.norm()) < 1e-4, (budget, checkpointing)
    return experience


@pytest.mark.parametrize(("sharing", "started", "layers"), ADAPTERS)
@pytest.mark.parametrize("continues", [True, False], ids=["keeps turns", "rewrites turns"])
def test_two_roles(tmp_path, sharing, started, layers, continues):
    policy = load(tmp_path, sharing, started, layers)
    experience = check(policy if continues else rewriting(policy), STACKELBERG)
    one_row = sharing == "one" and continues
    assert len(experience.batch.ids) == len(experience.signal) * (1 if one_row else 2)
    assert (experience.trunk is None) == (layers is None)


def test_a_layer_above_the_trunk_runs_again_on_the_trunk(tmp_path, monkeypatch):
    """Also where a layer is checkpointed with its hooks, as by ``transformers`` up to 5.12 at least."""

    def call(self, *args, **settings):
        def plain(*args):
            training, self.training = self.training, False  # so that its forward is not checkpointed as well
            try:
                return torch.nn.Module.__call__(self, *args, **settings)
            finally:
                self.training = training

        return self._gradient_checkpointing_func(plain, *args) if self.training else plain(*args)

    policy = load(tmp_path, "one", started=False, layers=1)
    monkeypatch.setattr(type(policy.decoder.layers[0]), "__call__", call)
    check(policy, STACKELBERG)


@pytest.mark.parametrize("spec", OTHERS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("started", [False, True])
def test_one_role(tmp_path, spec, started):
    check(load(tmp_path, "one", started, layers=1), spec)


@pytest.mark.parametrize("spec", [STACKELBERG, *OTHERS], ids=lambda spec: spec.name)
def test_all_weights(tmp_path, spec):
    finite.build_model(tmp_path, ("a", "b"), seed=1)
    policy = Policy.load(str(tmp_path), None, dtype="float32", temperature=2.0)
    move(policy, seed=2, scale=0.03)
    for causal in (policy.model, policy._frozen):
        may_end(causal.get_output_embeddings(), policy)
    check(policy, spec)
