"""One causal forward for both roles gives the loss and the gradients of a forward for each."""

import copy

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llm import embedded, finite
from llm.algorithms import stackelberg_gda
from llm.chat import IMPROVE
from llm.experience import Collector, Experience, joint_rows, separate_rows
from llm.generation import TransformersGenerator
from llm.policy import LoRA, Policy
from slhf.algorithms import StackelbergGDA
from tests.llm.tiny import move, pack, tiny_policy

pytestmark = pytest.mark.numeric

PROMPTS = ["Why is the sky blue?", "Name a fruit.", "Hello", "List three colours, please."]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A small random model behind the tokenizer and chat template of SmolLM2."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(str(embedded.model_path()))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    policy = Policy.load(str(directory), LoRA(rank=4), dtype="float32", temperature=0.7)
    move(policy, seed=1, scale=0.1)
    return policy


def sampled(policy, seed):
    """An ended answer, a truncated one, one that is only the end of sequence, and a long one."""
    rng, eos = torch.Generator().manual_seed(seed), policy.chat.eos
    lengths, ended = [5, 3, 0, 17], [True, False, True, True]
    draw = [torch.randint(100, 40_000, (n,), generator=rng).tolist() for n in lengths]
    return [ids + [eos] * end for ids, end in zip(draw, ended, strict=True)]


def loss_and_gradient(policy, rows, p):
    batch = pack(policy, rows)
    with policy.reference(), torch.no_grad():
        reference = policy.logprobs(batch)
    experience = Experience(batch, reference, p, {})
    loss, metrics = stackelberg_gda.loss(
        StackelbergGDA(timescale=2, tau_leader=0.3), policy.logprobs(batch), experience
    )
    return loss.detach(), torch.autograd.grad(loss, [p for _, p in policy.trainable()]), metrics


def test_one_forward_equals_two_on_a_real_chat_template(policy):
    """Answers of four kinds, and replies of four kinds that are not the answer's: padded, truncated, empty."""
    y, replies = sampled(policy, 0), sampled(policy, 1)[::-1]
    p = torch.tensor([0.9, 0.2, 0.4, 0.7])
    assert policy.chat.continues
    joint, separate = (rows(policy.chat, PROMPTS, y, replies) for rows in (joint_rows, separate_rows))
    assert (len(joint), len(separate)) == (4, 8)
    (loss, gradient, metrics), (loss2, gradient2, metrics2) = (
        loss_and_gradient(policy, rows, p) for rows in (joint, separate)
    )
    torch.testing.assert_close(loss, loss2, atol=1e-5, rtol=1e-5)
    assert metrics == pytest.approx(metrics2, rel=1e-5, abs=1e-5)
    for one, two in zip(gradient, gradient2, strict=True):
        assert float((one - two).norm()) <= 1e-5 * float(two.norm())


def test_the_joint_row_is_what_the_template_renders(policy):
    tokenizer = policy.tokenizer
    for words in ("Because of Rayleigh scattering.", ""):
        y = tokenizer(words, add_special_tokens=False)["input_ids"]
        messages = [
            {"role": "user", "content": PROMPTS[0]},
            {"role": "assistant", "content": words},
            {"role": "user", "content": IMPROVE},
        ]
        whole = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
        for answer in (y, [*y, policy.chat.eos]):
            assert policy.chat.follower_prompt(PROMPTS[0], answer) == whole


def test_a_template_that_rewrites_turns_is_played_with_a_row_for_each_role(policy):
    """The Follower is sampled and scored in the conversation that the template renders."""
    rewriting = copy.copy(policy)
    rewriting.chat = copy.copy(policy.chat)
    rewriting.chat._turn, rewriting.chat.continues = [], False
    at = Collector(rewriting, TransformersGenerator(rewriting), AlwaysFirst(), max_new_tokens=3, run_seed=0)
    spec = StackelbergGDA(leader_samples=1, follower_samples=2)
    experience = stackelberg_gda.collect(spec, at, PROMPTS, step=0)
    count = 2 * len(PROMPTS)
    assert len(experience.batch.ids) == 2 * count
    assert not experience.batch.owners["leader"][count:].any()
    assert not experience.batch.owners["follower"][:count].any()
    for row in range(count):
        y = experience.batch.ids[row][experience.batch.owners["leader"][row]].tolist()
        prompt = rewriting.chat.follower_prompt(PROMPTS[row // 2], y)
        assert experience.batch.ids[count + row, : len(prompt)].tolist() == prompt
        assert experience.batch.owners["follower"][count + row, : len(prompt)].sum() == 0
    loss, _ = stackelberg_gda.loss(spec, rewriting.logprobs(experience.batch), experience)
    assert torch.isfinite(loss)


class AlwaysFirst:
    """Prefers the first answer."""

    def prefer(self, prompts, a, b):
        return torch.ones(len(prompts)).numpy()


@pytest.mark.parametrize("sharing", ["one", "two"])
def test_sampled_log_probabilities_are_the_trained_ones(tmp_path, sharing):
    """Leader and Follower with an adapter each: the session reads the conversation again for the Follower."""
    policy = tiny_policy(tmp_path, sharing=sharing)
    recorded = []

    class Recording(TransformersGenerator):
        def open(self, *args, **kwargs):
            session = super().open(*args, **kwargs)
            sample = session.sample

            def and_record(*args, **kwargs):
                recorded.append(sample(*args, **kwargs))
                return recorded[-1]

            session.sample = and_record
            return session

    at = Collector(policy, Recording(policy), AlwaysFirst(), max_new_tokens=4, run_seed=0)
    spec = StackelbergGDA(leader_samples=2, follower_samples=2)
    experience = stackelberg_gda.collect(spec, at, [finite.PROMPT, finite.PROMPT + " answer"], step=0)
    assert len(experience.batch.ids) == (8 if sharing == "one" else 16)
    with torch.no_grad():
        logp = policy.logprobs(experience.batch)
    answers = [y for y in recorded[0] for _ in range(2)]
    for role, samples in (("leader", answers), ("follower", recorded[1])):
        expected = torch.tensor([p for sample in samples for p in sample.logprobs])
        torch.testing.assert_close(logp[experience.batch.owners[role]], expected, atol=2e-5, rtol=1e-5)
