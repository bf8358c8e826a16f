"""Any architecture answers, through its own ``generate`` where the fast path cannot; with the same draws either way."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from llm.finite import TEMPLATE
from llm.generation import TransformersGenerator
from llm.judges.local_lm import LocalLMJudge
from llm.plain_generator import PlainGenerator, next_logits, sampler
from llm.policy import Policy
from llm.refine import refine, resample
from slhf.errors import ConfigError

WORDS = ["<|pad|>", "<|unknown|>", "<|end|>", "<|user|>", "<|assistant|>", "A", "B", *"cdefghijklm"]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "max_position_embeddings": 128}
SHAPE |= {"num_hidden_layers": 2, "initializer_range": 0.3}
KINDS = {
    "gemma3": (
        Gemma3TextConfig,
        {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16},
    ),
    "mistral": (MistralConfig, {"num_key_value_heads": 1, "sliding_window": 4}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 1, "head_dim": 16}),
    "phi": (PhiConfig, {}),
    "gemma2": (Gemma2Config, {"num_key_value_heads": 1, "head_dim": 16, "final_logit_softcapping": 1.0}),
    "gpt2": (GPT2Config, {}),
    "mamba": (MambaConfig, {}),
}
PROMPTS = ["c d e f g h i", "j", "k l m"]


def build(directory, kind):
    """A random model with generation settings of its own that must not count."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unknown|>", chat_template=TEMPLATE
    )
    cls, more = KINDS[kind]
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 2}
    model = AutoModelForCausalLM.from_config(cls(vocab_size=len(WORDS), **special, **SHAPE, **more))
    model.generation_config.update(do_sample=True, top_k=1, top_p=0.1, repetition_penalty=9.0, bad_words_ids=[[5]])
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {k: Policy.as_is(build(folder / k, k), temperature=1.5, dtype="float32") for k in KINDS}


def answers(generator, prompts, first_row=0, role="leader"):
    session = generator.open([generator.policy.chat.prompt(x) for x in prompts])
    return session.sample(12, seed=7, role=role, first_row=first_row)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_has_the_model_s_own_probabilities(policies, kind):
    """Conversations several times as long as the window, at the temperature, by no setting of the model's own."""
    policy = policies[kind]
    for prompt, sample in zip(PROMPTS, answers(PlainGenerator(policy), PROMPTS), strict=True):
        before = policy.chat.prompt(prompt)
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([before + sample.ids])).logits[0, len(before) - 1 : -1]
        own = (logits / 1.5).log_softmax(-1)[range(len(sample.ids)), sample.ids]
        np.testing.assert_allclose(sample.logprobs, own.numpy(), atol=1e-4)
        assert policy.chat.eos not in sample.ids[:-1]
        assert len(sample.ids) == 12 or sample.ids[-1] == policy.chat.eos


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_draws_from_its_own_stream_whatever_is_beside_it(policies, kind):
    generator = PlainGenerator(policies[kind])
    together = [sample.ids for sample in answers(generator, PROMPTS)]
    alone = [answers(generator, [x], first_row=i)[0].ids for i, x in enumerate(PROMPTS)]
    assert together == alone
    assert together[0] != answers(generator, [PROMPTS[0]], first_row=5)[0].ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_path_is_left_only_where_it_must_be_and_it_is_said(policies, kind, capsys):
    policy = policies[kind]
    generator = sampler(policy)
    said = capsys.readouterr().err
    if isinstance(generator, TransformersGenerator):
        assert said == ""
        slow = [sample.ids for sample in answers(PlainGenerator(policy), PROMPTS)]
        assert [sample.ids for sample in answers(generator, PROMPTS)] == slow
    else:
        assert "through its own generate" in said
        assert said.count("\n") == 1
    expected = {"gemma2": PlainGenerator, "mamba": PlainGenerator, "qwen3": TransformersGenerator}
    assert isinstance(generator, expected.get(kind, (PlainGenerator, TransformersGenerator)))


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "mamba"])
def test_it_refines_and_resamples_and_a_turn_continues_the_conversation(policies, kind):
    policy = policies[kind]
    generator = sampler(policy)
    rounds = refine(policy, generator, PROMPTS, 3, 6, seed=1)
    assert [len(texts) for texts in rounds] == [3, 3, 3]
    assert rounds == refine(policy, generator, PROMPTS, 3, 6, seed=1)
    drawn = resample(policy, generator, PROMPTS, 4, 6, seed=1)
    assert len(drawn) == 4
    assert len({tuple(texts) for texts in drawn}) > 1
    session = PlainGenerator(policy).open([policy.chat.prompt(x) for x in PROMPTS])
    first = session.sample(3, seed=1)
    session.extend([[5, 6]] * 3)
    again = PlainGenerator(policy).open(
        [[*policy.chat.prompt(x), *y.ids, 5, 6] for x, y in zip(PROMPTS, first, strict=True)]
    )
    assert session.sample(3, seed=2) == again.sample(3, seed=2)
    assert session.trunk(session.conversations) is None


def test_a_policy_to_be_trained_is_still_held_to_the_fast_path(tmp_path):
    with pytest.raises(ConfigError, match="changes its logits"):
        Policy.load(build(tmp_path, "gemma2"), None, dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_any_of_them_is_a_local_judge(policies, kind):
    policy = policies[kind]
    judge = LocalLMJudge(policy.model, policy.tokenizer, "{prompt} {a} {b}")
    p = judge.prefer(["c d e f g h", "c"], ["d", "e e"], ["f f f", "g"])
    for x, a, b, found in zip(["c d e f g h", "c"], ["d", "e e"], ["f f f", "g"], p, strict=True):
        shown = []
        for first, second in ((a, b), (b, a)):
            text = f"<|user|> {x} {first} {second} <|assistant|>"
            ids = torch.tensor([policy.tokenizer(text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                logits = policy.model(input_ids=ids).logits[0, -1, [5, 6]]
            shown.append(logits.double().softmax(-1)[0].item())
        assert found == pytest.approx((shown[0] + 1 - shown[1]) / 2, abs=1e-5)
    assert abs(p - 0.5).max() > 1e-3


def test_next_logits_are_unchanged_by_generation_settings(policies):
    model = policies["phi"].model
    with torch.no_grad():
        own = model(input_ids=torch.tensor([[7, 8, 9]])).logits[0, -1]
    np.testing.assert_allclose(next_logits(model, [[7, 8, 9], [10]], 0)[0], own, atol=1e-5)
