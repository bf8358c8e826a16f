"""The ensemble's rewards against ``peft``'s own models, one text and one adapter at a time."""

import itertools
import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from llm.finite import TEMPLATE
from llm.judges.reward_ensemble import RewardEnsembleJudge
from llm.policy import LoRA
from llm.reward_heads import RewardHeads

WORDS = ["choose", "prompt", "answer", "a", "b", "c", "d"]
ATTRIBUTES = ("kind", "short", "true-ish")
LORA = LoRA(rank=3, alpha=6.0)


def build_llama(directory, layers=4):
    """A random Llama of the size of a nutshell, whose padding is the end of a turn as in SmolLM2."""
    words = ["<|unknown|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", *WORDS]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "<|system|> c d <|end|> " + TEMPLATE.replace("<|end|> ", "<|end|> <|system|> ")
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|end|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        chat_template=template,
    ).save_pretrained(directory)
    torch.manual_seed(0)
    LlamaModel(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            initializer_range=0.3,
            pad_token_id=1,
            eos_token_id=1,
            bos_token_id=1,
        )
    ).save_pretrained(directory)


def moved(heads, seed=1):
    """Every parameter away from 0."""
    torch.manual_seed(seed)
    for x in heads.parameters().values():
        x.copy_(torch.randn(x.shape) * 0.5)
    return heads


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    build_llama(path)
    return str(path)


def texts(count, seed=0):
    """Prompts and answers of 1 to 9 words, some of them repeated."""
    rng = np.random.default_rng(seed)

    def some(most):
        return [" ".join(rng.choice(WORDS, size=rng.integers(1, most))) for _ in range(count)]

    return [p for p in some(6) for _ in range(2)][:count], some(10)


def naive(directory, base, prompts, answers):
    """One forward pass for each text and each attribute, by peft and transformers alone."""
    record = json.loads((directory / "ensemble.json").read_text())
    model = None
    for name in record["attributes"]:
        folder = str(directory / name)
        if model is None:
            plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
            model = PeftModel.from_pretrained(plain, folder, adapter_name=name).eval()
        else:
            model.load_adapter(folder, adapter_name=name)
    tokenizer = RewardHeads.load(directory, "cpu").tokenizer
    out = np.empty((len(prompts), len(record["attributes"])))
    for (i, (x, y)), (k, name) in itertools.product(
        enumerate(zip(prompts, answers, strict=True)), enumerate(record["attributes"])
    ):
        model.set_adapter(name)
        messages = [{"role": "user", "content": x}, {"role": "assistant", "content": y}]
        batch = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(batch, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out[i, k] = model(input_ids=ids).logits.item()
    return out


@pytest.mark.parametrize(
    "lora",
    [
        LORA,
        LoRA(rank=3, alpha=6.0, layers=2),
        LoRA(rank=2, alpha=1.0, layers=1, modules=("o_proj", "down_proj")),
        LoRA(rank=2, alpha=4.0, layers=4, modules=("q_proj",)),
    ],
    ids=["all", "last two", "last one", "queries"],
)
def test_rewards_are_those_of_peft_one_at_a_time(base, tmp_path, lora):
    moved(RewardHeads.create(base, ATTRIBUTES, lora, "float32", "cpu", seed=0)).save(tmp_path / "e")
    judge = RewardEnsembleJudge.load(tmp_path / "e")
    prompts, answers = texts(24)
    expected = naive(tmp_path / "e", base, prompts, answers)
    assert expected.std(0).min() > 0.1
    np.testing.assert_allclose(judge.features(prompts, answers), expected, atol=1e-4)
