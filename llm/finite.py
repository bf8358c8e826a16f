"""A language model whose answers are n single tokens: the bridge to ``tabular``.

It is a real causal transformer with a real tokenizer and chat template, saved to disk and loaded like any
other; only its vocabulary is small, and the bias of its output layer rules out every token that is not an
answer. With a :class:`~llm.judges.matrix.MatrixJudge` its optimal policies are known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from llm.chat import IMPROVE
from llm.policy import Policy, Segment, TokenBatch

PROMPT = "choose"
MODULES = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
"""The linear modules of a Phi layer, to adapt."""
RULED_OUT = -1e4
"""Output bias of tokens that are not answers; exp of it is exactly 0 in float32."""
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<|end|> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def build_model(directory: Path, labels: Sequence[str], seed: int) -> None:
    """Save a randomly initialised two-layer transformer that answers any prompt with one of ``labels``."""
    special = ["<|pad|>", "<|unknown|>", "<|end|>", "<|user|>", "<|assistant|>"]
    words = list(dict.fromkeys([*special, PROMPT, *IMPROVE.split(), "prompt", "answer", *labels]))
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unknown|>", chat_template=TEMPLATE
    )
    config = PhiConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        pad_token_id=words.index("<|pad|>"),
        eos_token_id=words.index("<|end|>"),
        bos_token_id=words.index("<|end|>"),
    )
    torch.manual_seed(seed)
    model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias.fill_(RULED_OUT)
        model.lm_head.bias[[words.index(label) for label in labels]] = 0.0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@torch.no_grad()
def distributions(policy: Policy, labels: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy written out: log pi(y), shape (n,), and log omega(y'|y), shape (n, n), float64."""
    chat, n = policy.chat, len(labels)
    tokens = [policy.tokenizer.convert_tokens_to_ids(label) for label in labels]
    conversations: list[list[Segment]] = [
        [(chat.prompt(PROMPT), None), ([y], "leader"), (chat.turn([y]), None), ([reply], "follower")]
        for y in tokens
        for reply in tokens
    ]
    batch = TokenBatch.pack(conversations, policy.pad, policy.device)
    logp = policy.logprobs(batch).double()
    leader, follower = ((logp * batch.owners[role]).sum(1).view(n, n) for role in ("leader", "follower"))
    # float32 log-probabilities sum to one up to 1e-7; tabular's references are held to more than that
    return leader[:, 0].log_softmax(-1).cpu(), follower.log_softmax(-1).cpu()
