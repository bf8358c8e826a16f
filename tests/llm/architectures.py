"""A tiny random model of each architecture, with the structure of its real chat template and its special tokens.

The tokenizer is one of bytes: every text has tokens, and what a template does to white space shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (  # drops the reasoning of earlier turns, and shows an empty one where none is wanted
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' + m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
SMOLLM3 = (  # reasons unless told not to, says so and the date in a header, and marks every turn without reasoning
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set mode = '/think' if enable_thinking else '/no_think' -%}"
    "{{- '<|im_start|>system\n' -}}{%- set today = strftime_now(\"%d %B %Y\") -%}"
    "{{- 'Today Date: ' ~ today ~ '\nReasoning Mode: ' + mode + '\n<|im_end|>\n' -}}"
    "{%- set skip = '' if enable_thinking else '<think>\n\n</think>\n' -%}"
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\n' + skip + m.content.lstrip('\n') + '<|im_end|>\n' -}}"
    "{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' + skip -}}{%- endif -%}"
)
LLAMA = (  # the date in the system's turn, contents trimmed
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}"
    '{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n<|eot_id|>" }}'
    "{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA = (  # no role but two, which must alternate; the assistant is called model
    "{{ bos_token }}{%- for m in messages -%}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    '{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}'
    "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
PHI = (  # ends the text, not the turn, with the tokenizer's own end
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (  # a blank before an answer that the prompt does not end with
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Architecture:
    """How to build one."""

    config: Any
    template: str
    end: str
    """What closes a turn."""
    eos: str
    """The tokenizer's end-of-sequence token, which is also the model's."""
    special: tuple[str, ...]
    bos: str | None = None
    continues: bool = True
    """Whether the template keeps earlier turns as they were sampled."""
    settings: dict[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")
    """Linear modules to adapt."""


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SHORT = {"sliding_window": 8}
"""A window that every conversation outgrows."""

ARCHITECTURES = {
    "llama": Architecture(LlamaConfig, LLAMA, "<|eot_id|>", "<|end_of_text|>", HEADERS, HEADERS[0]),
    "qwen2": Architecture(Qwen2Config, CHATML, "<|im_end|>", "<|im_end|>", IM),
    "qwen2-base": Architecture(Qwen2Config, CHATML, "<|im_end|>", "<|endoftext|>", IM),
    "qwen3": Architecture(Qwen3Config, QWEN3, "<|im_end|>", "<|im_end|>", IM, continues=False),
    "gemma3": Architecture(
        Gemma3TextConfig,
        GEMMA,
        "<end_of_turn>",
        "<eos>",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        settings={**SHORT, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    ),
    "mistral": Architecture(
        MistralConfig, MISTRAL, "</s>", "</s>", ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", False, SHORT
    ),
    "phi": Architecture(
        Phi3Config,
        PHI,
        "<|end|>",
        "<|endoftext|>",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"),
        modules=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
    "smollm3": Architecture(SmolLM3Config, SMOLLM3, "<|im_end|>", "<|im_end|>", IM),
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Bytes, and the architecture's special tokens."""
    one = ARCHITECTURES[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in one.special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=one.eos, bos_token=one.bos, chat_template=one.template, padding_side="right"
    )


def build(directory: Path, name: str, layers: int = 2, seed: int = 0) -> str:
    """Save the model with its tokenizer; returns the path."""
    one, tokenizer = ARCHITECTURES[name], tokenizer_of(name)
    config = one.config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        initializer_range=0.3,
        pad_token_id=None,
        bos_token_id=None if one.bos is None else tokenizer.convert_tokens_to_ids(one.bos),
        eos_token_id=tokenizer.eos_token_id,
        **one.settings,
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)
