"""Sampling from our own cache and masks is reading with ``transformers``' own, whatever the layers see."""

import pytest
import torch

from llm.generation import TransformersGenerator
from llm.policy import LoRA, Policy
from slhf.errors import ConfigError
from tests.llm.architectures import ARCHITECTURES, build
from tests.llm.tiny import move, tiny_policy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_sampled_is_what_transformers_reads(tmp_path, name):
    """Rows of different lengths, all longer than the window of the models that have one; and the Follower's reply."""
    one = ARCHITECTURES[name]
    policy = Policy.load(build(tmp_path, name), LoRA(rank=2, modules=one.modules), dtype="float32", temperature=0.8)
    move(policy, seed=1, scale=0.1)
    prompts = [policy.chat.prompt(x) for x in ("Why is the sky blue?", "Hi.")]
    session = TransformersGenerator(policy).open(prompts)
    session.repeat(2)
    rows = [prompt for prompt in prompts for _ in range(2)]
    for role in ("leader", "follower"):
        samples = session.sample(12, seed=3, role=role)
        for start, y in zip(rows, samples, strict=True):
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([[*start, *y.ids]])).logits[0, len(start) - 1 : -1]
            logp = (logits / 0.8).log_softmax(-1).gather(1, torch.tensor(y.ids)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(y.logprobs), logp, atol=1e-4, rtol=1e-4)
        turns = [policy.chat.turn(y.ids) for y in samples]
        rows = [[*start, *y.ids, *turn] for start, y, turn in zip(rows, samples, turns, strict=True)]
        session.extend(turns)


def test_layers_that_keep_no_keys_are_refused(tmp_path):
    policy = tiny_policy(tmp_path)
    policy.decoder.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ConfigError, match="of the kind linear_attention"):
        TransformersGenerator(policy)
