"""A tiny policy with answers of several tokens, small enough to write every answer down; and tiny classifiers."""

from __future__ import annotations

import itertools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from llm import finite
from llm.policy import LoRA, Policy, TokenBatch


def tiny_policy(directory, labels=("a", "b"), *, moved=True, temperature=1.0, sharing="one") -> Policy:
    """The finite-answers model; it may also end its answers, and ``moved`` moves it away from its reference."""
    finite.build_model(directory, labels, seed=1)
    lora = LoRA(rank=4, modules=finite.MODULES)
    policy = Policy.load(str(directory), lora, dtype="float32", temperature=temperature, sharing=sharing)
    with torch.no_grad():
        policy.head.bias[policy.chat.eos] = 0.0
    if moved:
        move(policy, seed=2)
    return policy


@torch.no_grad()
def move(policy: Policy, seed: int, scale: float = 0.3) -> None:
    """Move what is trained away from where it is."""
    torch.manual_seed(seed)
    for _, parameter in policy.trainable():
        parameter.add_(scale * torch.randn_like(parameter))


def answers(policy: Policy, labels: tuple[str, ...], length: int) -> list[list[int]]:
    """All token sequences the policy can answer with, given at most ``length`` new tokens."""
    letters = [policy.tokenizer.convert_tokens_to_ids(label) for label in labels]
    ended = [[*w, policy.chat.eos] for k in range(length) for w in itertools.product(letters, repeat=k)]
    return ended + [list(w) for w in itertools.product(letters, repeat=length)]


def conversation(policy: Policy, y: list[int], reply: list[int] | None = None):
    """The segments of a one-prompt conversation."""
    start = [(policy.chat.prompt(finite.PROMPT), None), (y, "leader")]
    return start if reply is None else [*start, (policy.chat.turn(y), None), (reply, "follower")]


def pack(policy: Policy, conversations) -> TokenBatch:
    return TokenBatch.pack(conversations, policy.pad, policy.device)


WORDS = ["<pad>", "<unknown>", "<end>", "[user]", "[assistant]", "A", "B", *"abcdefgh"]
"""The vocabulary of the tiny classifiers, token by token."""


def tiny_classifier(directory, kind=LlamaConfig, labels=1, template=True, seed=0, **settings) -> str:
    """A random sequence classifier, saved; its weights are large, so that every token matters. Returns its path."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unknown>")
    if template:
        tokenizer.chat_template = (
            "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end> {% endfor %}"
            "{% if add_generation_prompt %}[assistant] {% endif %}"
        )
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = kind(
        vocab_size=len(WORDS),
        num_labels=labels,
        initializer_range=0.5,
        max_position_embeddings=32,
        **{**shape, "pad_token_id": None, "eos_token_id": 2, "bos_token_id": None, **settings},
    )
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)
