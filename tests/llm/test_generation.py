"""The sampler and the trainer agree on every token: cache, masks, positions, temperature, adapter, mixture."""

from collections import Counter

import pytest
import torch

from llm import finite
from llm.generation import TransformersGenerator
from slhf.signals import geometric_mixture
from tests.llm.tiny import answers, conversation, pack, tiny_policy

PROMPTS = ["choose", "choose choose choose", "choose the answer"]


def recorded(samples):
    return torch.tensor([p for sample in samples for p in sample.logprobs])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_roles_log_probabilities_equal_the_single_forward(tmp_path, temperature):
    """Prompts of different lengths, repeated, answers that end and that are cut off, the Follower on the same cache."""
    policy = tiny_policy(tmp_path, temperature=temperature)
    chat, repeats = policy.chat, 8
    session = TransformersGenerator(policy).open([chat.prompt(x) for x in PROMPTS])
    session.repeat(repeats)
    y = session.sample(4, seed=0)
    session.extend([chat.turn(sample.ids) for sample in y])
    replies = session.sample(4, seed=1)
    prompts = [x for x in PROMPTS for _ in range(repeats)]
    batch = pack(
        policy,
        [
            [(chat.prompt(x), None), (a.ids, "leader"), (chat.turn(a.ids), None), (b.ids, "follower")]
            for x, a, b in zip(prompts, y, replies, strict=True)
        ],
    )
    assert len({len(sample.ids) for sample in y}) > 1
    assert any(sample.ids[-1] == chat.eos for sample in y)
    assert any(sample.ids[-1] != chat.eos for sample in y)
    logp = policy.logprobs(batch)
    for role, samples in (("leader", y), ("follower", replies)):
        trained = logp[batch.owners[role]]
        torch.testing.assert_close(recorded(samples), trained, atol=2e-5, rtol=1e-5)


def test_the_reference_is_the_base_model(tmp_path):
    moved, base = tiny_policy(tmp_path / "a"), tiny_policy(tmp_path / "b", moved=False)
    conversations = [conversation(moved, y, y) for y in answers(moved, ("a", "b"), 2)]
    with moved.reference():
        reference = moved.logprobs(pack(moved, conversations))
    torch.testing.assert_close(reference, base.logprobs(pack(base, conversations)))
    assert not torch.allclose(moved.logprobs(pack(moved, conversations)), reference, atol=1e-2)


@pytest.mark.parametrize("mixture", [0.0, 0.4, 1.0])
def test_mixture_samples_the_geometric_mixture_at_every_token(tmp_path, mixture):
    policy = tiny_policy(tmp_path)
    opening = policy.chat.prompt(finite.PROMPT)
    session = TransformersGenerator(policy).open([opening] * 64, mixture=mixture)
    for sample in session.sample(3, seed=0):
        ids = torch.tensor([opening + sample.ids])
        own = policy.model(input_ids=ids).logits.log_softmax(-1)
        with policy.reference():
            base = policy.model(input_ids=ids).logits.log_softmax(-1)
        mixed = geometric_mixture(own, base, mixture=mixture).log_softmax(-1)[0, len(opening) - 1 : -1]
        expected = mixed.gather(1, torch.tensor(sample.ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=2e-5, rtol=1e-5)


def test_samples_follow_the_policy(tmp_path):
    """4096 draws against the exact distribution: total variation of about sqrt(n / (2 pi draws)) is noise."""
    policy = tiny_policy(tmp_path)
    possible = answers(policy, ("a", "b"), 2)
    batch = pack(policy, [conversation(policy, y) for y in possible])
    exact = policy.logprobs(batch).sum(1).exp()
    session = TransformersGenerator(policy).open([policy.chat.prompt(finite.PROMPT)])
    session.repeat(4096)
    counts = Counter(tuple(sample.ids) for sample in session.sample(2, seed=5))
    drawn = torch.tensor([counts[tuple(y)] / 4096 for y in possible])
    assert float(exact.sum()) == pytest.approx(1, abs=1e-5)
    assert float((drawn - exact).abs().sum() / 2) < 0.03


def test_a_seed_repeats_the_draw_and_another_does_not(tmp_path):
    policy = tiny_policy(tmp_path)
    opening = [policy.chat.prompt(x) for x in PROMPTS] * 4

    def draw(seed):
        return [sample.ids for sample in TransformersGenerator(policy).open(opening).sample(4, seed)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
