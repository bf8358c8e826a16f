import pytest

from llm import finite
from llm.chat import IMPROVE, Chat
from slhf.errors import ConfigError
from tests.llm.tiny import tiny_policy


@pytest.fixture
def tokenizer(tmp_path):
    return tiny_policy(tmp_path).tokenizer


def test_the_pieces_make_the_template(tokenizer):
    chat = Chat(tokenizer)
    answer = tokenizer.convert_tokens_to_ids("a")
    messages = [
        {"role": "user", "content": finite.PROMPT},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": IMPROVE},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    for y in ([answer], [answer, chat.eos]):  # cut off, or ended by the model itself
        assert [*chat.prompt(finite.PROMPT), *y, *chat.turn(y)] == whole


def test_a_template_that_rewrites_earlier_turns_gives_the_follower_its_own_conversation(tokenizer):
    assert Chat(tokenizer).continues
    tokenizer.chat_template = finite.TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    chat = Chat(tokenizer)
    assert not chat.continues
    a, ids = tokenizer.convert_tokens_to_ids("a"), tokenizer.convert_tokens_to_ids
    prompt = chat.follower_prompt(finite.PROMPT, [a, chat.eos])
    assert prompt[:5] == ids(["<|user|>", "CHOOSE", "<|assistant|>", "A", "<|end|>"])
    assert prompt[-1] == ids("<|assistant|>")


def test_a_base_model_without_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        Chat(tokenizer)
