"""A random Llama of the size of a nutshell with a chat template, to put reward heads on."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from llm.finite import TEMPLATE

WORDS = ["choose", "prompt", "answer", "a", "b", "c", "d"]


def build_llama(directory, layers=4):
    """Save it. As in SmolLM2, padding is the token that ends a turn, and conversations start with a system message."""
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
