"""What is measured before anything is sampled, on tiny models of a small context."""

import json

import pytest

from llm import finite
from llm.config import ModelConfig, TrainConfig
from llm.data.prompts import Prompt
from llm.generation import TransformersGenerator
from llm.judges.matrix import MatrixJudge
from llm.lengths import Player, fitting
from llm.policy import LoRA, Policy
from llm.refine import refine
from llm.train import train
from slhf.algorithms import StackelbergGDA
from slhf.errors import InvalidData
from slhf.runs import Run
from tests.llm.tiny import tiny_policy

CONTEXT = 40
LONG = "choose " * CONTEXT


def model_of_context(directory, context=CONTEXT):
    """The finite-answers model with a small context; its answers may go on."""
    policy = tiny_policy(directory)
    policy.model.get_base_model().config.max_position_embeddings = context
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    return policy


@pytest.fixture(autouse=True)
def _nothing_reported_yet(monkeypatch):
    monkeypatch.setattr("llm.data.selection._REPORTED", set())


def test_the_longest_conversation_is_measured_to_the_token(tmp_path):
    """A prompt that just fits needs all of the context when no answer ends; one token more is too long."""
    policy = model_of_context(tmp_path)
    policy.head.bias.data[policy.chat.eos] = -1e4  # no answer ends before the limit
    player = Player.of(policy, longest=6)
    sizes = {count: player.tokens("choose " * count) for count in range(1, 10)}
    assert all(sizes[count + 1] == sizes[count] + 1 for count in range(1, 9))
    answer = policy.chat.given("a b a b a b")[:-1]
    assert sizes[3] == len(policy.chat.follower_prompt("choose " * 3, answer)) + 6
    alone = Player.of(policy, longest=6, follows=False)
    assert alone.tokens("choose") == len(policy.chat.prompt("choose")) + 6


def test_what_does_not_fit_is_left_out_and_counted(tmp_path, caplog):
    policy = model_of_context(tmp_path)
    player = Player.of(policy, longest=4)
    assert fitting(["choose", LONG, "a", LONG], [player]) == [0, 2]
    assert "left out: 2 that with an answer of 4 tokens, the Follower's turn and a reply of 4 tokens" in caplog.text
    assert "exceed the model's context of 40 tokens (first: choose choose" in caplog.text
    with pytest.raises(InvalidData, match=r"No prompt fits: 1 rows; left out: 1 .* lower max_new_tokens"):
        fitting([LONG], [player])
    assert fitting(["a", "b"], [player], given=["a", LONG]) == [0]
    assert "1 that with a given answer, the Follower's turn" in caplog.text


def test_the_same_is_measured_without_the_weights(tmp_path):
    policy = model_of_context(tmp_path)
    named = Player.named(ModelConfig(str(tmp_path), dtype="float32", max_new_tokens=4))
    own = Player.of(policy, longest=4)
    assert (named.context, named.tokens("choose a")) == (own.context, own.tokens("choose a"))
    assert named.context == CONTEXT


def test_training_leaves_long_prompts_out_before_step_0(tmp_path, caplog):
    model_of_context(tmp_path / "model")
    lora = LoRA(rank=2, modules=finite.MODULES)
    model = ModelConfig(str(tmp_path / "model"), dtype="float32", max_new_tokens=1, lora=lora)
    judge = MatrixJudge([[0.5, 1.0], [0.0, 0.5]], ("a", "b"))
    judge.prefer = lambda prompts, a, b: [0.5 for x in prompts if x in ("choose", Prompt("choose", "a"))]
    run = Run.open(tmp_path, "x", {})
    prompts = ["choose", LONG, Prompt("choose", "a")]
    config = TrainConfig(steps=2, batch_size=2, checkpoint_every=1)
    train(StackelbergGDA(), judge, prompts, run, model, config)
    assert "3 rows; left out: 1 that with an answer of 1 tokens" in caplog.text
    seen = {(row["prompt"], row.get("system")) for row in run.metrics("samples.jsonl")}
    assert seen == {("choose", None), ("choose", "a")}
    with pytest.raises(InvalidData, match="No prompt fits"):
        train(StackelbergGDA(), judge, [LONG], Run.open(tmp_path, "y", {}), model, config)
    assert not (tmp_path / "y" / "metrics.jsonl").exists()


def test_a_system_message_is_read_by_both_roles(tmp_path):
    policy = model_of_context(tmp_path)
    plain, told = "choose", Prompt("choose", "a b")
    text = policy.tokenizer.decode(policy.chat.prompt(told))
    assert text.startswith("<|system|> a b <|user|> choose") or "a b" in text
    longer = len(policy.chat.prompt(told)) - len(policy.chat.prompt(plain))
    assert longer == len(policy.chat.follower_prompt(told, [])) - len(policy.chat.follower_prompt(plain, []))
    assert longer > 0
    assert len(refine(policy, TransformersGenerator(policy), [told], 2, 2, seed=0)) == 2


def test_a_template_without_a_system_message_leaves_its_prompts_out(tmp_path, caplog):
    policy = model_of_context(tmp_path)
    policy.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + policy.tokenizer.chat_template
    )
    player = Player.of(policy, longest=2)
    assert fitting(["choose", Prompt("choose", "a")], [player]) == [0]
    assert "1 with a system message, which the model's chat template does not take (first: choose)" in caplog.text


def test_a_tokenizer_that_reads_less_counts(tmp_path):
    policy = model_of_context(tmp_path)
    policy.tokenizer.model_max_length = 7
    assert Player.of(policy, longest=4).context == 7
    assert isinstance(policy, Policy)
