"""Chat templates as real models have them, cut into pieces: where an answer ends, what is kept, and what is refused."""

import datetime

import pytest
import torch
from torch import nn
from transformers.utils import chat_template_utils

from llm import finite
from llm.chat import IMPROVE, Chat, render
from llm.generation import TransformersGenerator
from llm.policy import LoRA, Policy
from slhf.errors import ConfigError
from tests.llm.architectures import ARCHITECTURES, build, tokenizer_of
from tests.llm.tiny import tiny_policy

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
ALPACA = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"


@pytest.fixture
def tokenizer(tmp_path):
    return tiny_policy(tmp_path).tokenizer


def asked_to_improve(x, y):
    return [
        {"role": "user", "content": x},
        {"role": "assistant", "content": y},
        {"role": "user", "content": IMPROVE},
    ]


def test_the_pieces_make_the_template(tokenizer):
    chat = Chat(tokenizer)
    answer = tokenizer.convert_tokens_to_ids("a")
    messages = asked_to_improve(finite.PROMPT, "a")
    whole = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    for y in ([answer], [answer, chat.eos]):  # cut off, or ended by the model itself
        assert [*chat.prompt(finite.PROMPT), *y, *chat.turn(y)] == whole


@EVERY
def test_an_answer_ends_where_the_template_says_and_the_pieces_make_it(name):
    tokenizer, one = tokenizer_of(name), ARCHITECTURES[name]
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.eos) == one.end
    assert chat.ends == {chat.eos, tokenizer.convert_tokens_to_ids(one.eos)}
    assert chat.continues == one.continues
    spoken = tokenizer("It is blue.", add_special_tokens=False)["input_ids"]
    whole = render(tokenizer, asked_to_improve("Why?", "It is blue."), reply=True)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    for y in (spoken, [*spoken, chat.eos]):
        assert chat.text(y) == "It is blue."
        assert chat.follower_prompt("Why?", y) == ids
        if chat.continues:
            assert [*chat.prompt("Why?"), *y, *chat.turn(y)] == ids
    assert chat.given("It is blue.") == [*spoken, chat.eos]


def test_an_answer_that_ended_otherwise_is_closed_as_the_template_does():
    """A base model of Qwen2.5 may also end the text: the turn is then still open."""
    tokenizer = tokenizer_of("qwen2-base")
    chat, other = Chat(tokenizer), tokenizer.convert_tokens_to_ids("<|endoftext|>")
    a = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert chat.turn([*a, other]) == chat.turn(a) == [chat.eos, *chat.turn([*a, chat.eos])]
    assert chat.text([*a, other]) == "a"
    assert Chat(tokenizer, [7]).ends == chat.ends | {7}


@EVERY
@pytest.mark.parametrize("which", ["template", "generation"])
def test_sampling_stops_at_the_templates_end_and_at_the_models(tmp_path, name, which):
    one = ARCHITECTURES[name]
    policy = Policy.load(build(tmp_path, name), LoRA(rank=2, modules=one.modules), dtype="float32")
    end = policy.tokenizer.convert_tokens_to_ids(one.end if which == "template" else one.eos)
    bias = torch.zeros(len(policy.head.weight))
    bias[end] = 1e4
    policy.head.bias = nn.Parameter(bias, requires_grad=False)
    (y,) = TransformersGenerator(policy).open([policy.chat.prompt("Why?")]).sample(6, seed=0)
    assert y.ids == [end]


@EVERY
def test_outer_white_space_is_as_the_template_wants_it(name):
    """What was sampled stays where the template continues; elsewhere the Follower reads it as the template trims it."""
    chat = Chat(tokenizer_of(name))
    y = chat.given(" \n It is blue. \n")
    assert chat.text(y) == "It is blue."
    prompt = chat.follower_prompt("  Why? ", y)
    if chat.continues:
        assert prompt == [*chat.prompt("  Why? "), *y, *chat.turn(y)]
    else:
        assert prompt == chat.follower_prompt("  Why? ", chat.given("It is blue."))


@pytest.mark.parametrize(("name", "shown"), [("llama", "26 Jul 2024"), ("smollm3", "26 July 2024")])
def test_prompts_are_the_same_on_every_day(monkeypatch, name, shown):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tokenizer = tokenizer_of(name)
    message = {"role": "user", "content": "Why?"}
    assert "2030" in tokenizer.apply_chat_template([message], tokenize=False)  # left to itself
    text = tokenizer.decode(Chat(tokenizer).prompt("Why?"))
    assert f"Today Date: {shown}\n" in text
    assert "2030" not in text
    assert tokenizer.chat_template == ARCHITECTURES[name].template  # what is saved with a model


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_a_model_that_can_reason_is_asked_not_to(name):
    tokenizer = tokenizer_of(name)
    assert tokenizer.decode(Chat(tokenizer).prompt("Why?")).rstrip().endswith("<think>\n\n</think>")


def test_a_template_that_rewrites_earlier_turns_gives_the_follower_its_own_conversation(tokenizer):
    assert Chat(tokenizer).continues
    tokenizer.chat_template = finite.TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    chat = Chat(tokenizer)
    assert not chat.continues
    a, ids = tokenizer.convert_tokens_to_ids("a"), tokenizer.convert_tokens_to_ids
    prompt = chat.follower_prompt(finite.PROMPT, [a, chat.eos])
    assert prompt[:5] == ids(["<|user|>", "CHOOSE", "<|assistant|>", "A", "<|end|>"])
    assert prompt[-1] == ids("<|assistant|>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (ALPACA, r"follows an answer with '\\n\\n### user.* begins with no special token"),
        ("{% for m in messages %}[user] {% endfor %}", "begins with no special token"),
        ("{{ strftime_now('%d' ~ '%B') }}" + finite.TEMPLATE, "strftime_now"),
        ("{{ raise_exception('one turn is enough') }}", "refuses turns of user, assistant, user: one turn is enough"),
    ],
    ids=["none", "plain text", "no answer", "computed date", "raises"],
)
def test_templates_that_cannot_serve_are_refused(template, message):
    tokenizer = tokenizer_of("llama")
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message):
        Chat(tokenizer)
