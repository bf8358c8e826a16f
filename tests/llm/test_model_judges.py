"""Judges that are models: what they answer, held against the model read by hand, one unpadded text at a time."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from llm import finite
from llm.judges import FeatureJudge, MeteredJudge, RewardJudge, ask, ask_reward, drain
from llm.judges.config import (
    AttributeJudgeConfig,
    ClassifierJudgeConfig,
    LocalLMJudgeConfig,
    RewardModelJudgeConfig,
)
from llm.judges.loading import load_judge
from llm.judges.matrix import MatrixJudge
from llm.judges.meter import COUNTS, Meter
from llm.judges.two_orders import TwoOrderJudge, meter_orders
from llm.reward import OwnReward
from slhf.errors import ConfigError, InvalidParameter, JudgeError, MissingResource
from tests.llm.tiny import WORDS, tiny_classifier

pytestmark = pytest.mark.numeric

PROMPTS = ["a b", "c", "a b", "d d d d", "c"]
A = ["e f g h e", "a", "h", "b c", "a"]
B = ["f", "e f g h a b c d", "a a a", "b c", "g"]
SHORT = "{prompt} A {a} B {b}"
"""A template for models that read 64 tokens."""


@torch.no_grad()
def by_hand(path, texts, special_tokens=False):
    """(len(texts), labels): each text read alone and without padding."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = [tokenizer(text, add_special_tokens=special_tokens)["input_ids"] for text in texts]
    return np.concatenate([model(input_ids=torch.tensor([row])).logits.double().numpy() for row in ids])


def dialogue(x, y):
    return f"[user] {x} <end> [assistant] {y} <end> "


KINDS = {
    "decoder": {},
    "decoder that names a padding token": {"pad_token_id": 0},
    "decoder padded with its end": {"pad_token_id": 2},
    "encoder": {"kind": BertConfig, "pad_token_id": 0},
}


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_the_models_own_however_they_are_batched(tmp_path, kind, budget):
    path = tiny_classifier(tmp_path, **KINDS[kind])
    judge = load_judge(RewardModelJudgeConfig(path, tokens_per_batch=budget), "cpu")
    assert isinstance(judge, RewardJudge)
    assert isinstance(judge, MeteredJudge)
    assert not isinstance(judge, FeatureJudge)
    expected = [by_hand(path, map(dialogue, PROMPTS, texts))[:, 0] for texts in (A, B)]
    np.testing.assert_allclose(ask_reward(judge, PROMPTS, A), expected[0], atol=1e-5)
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), expit(expected[0] - expected[1]), atol=1e-5)
    assert np.ptp(expected[0]) > 0.1
    assert judge.prefer([], [], []).shape == (0,)


def rows_read(monkeypatch, judge):
    """Counts what the model of a judge is given from now on."""
    counted, honest = [], judge._read

    def reading(rows):
        counted.extend(tuple(row) for row in rows)
        return honest(rows)

    monkeypatch.setattr(judge, "_read", reading)
    return counted


def test_each_distinct_text_is_read_once_and_again_only_without_memory(tmp_path, monkeypatch):
    path = tiny_classifier(tmp_path)
    for remember in (False, True):
        judge = load_judge(RewardModelJudgeConfig(path), "cpu", remember)
        read = rows_read(monkeypatch, judge.classifier)
        first = judge.prefer(PROMPTS, A, B)
        assert len(read) == len(set(read)) == len({*zip(PROMPTS, A, strict=True), *zip(PROMPTS, B, strict=True)}) == 8
        np.testing.assert_array_equal(judge.prefer(PROMPTS, A, B), first)
        assert len(read) == (8 if remember else 16)


def test_a_classifier_that_is_none_is_refused(tmp_path):
    two = tiny_classifier(tmp_path / "two", labels=2)
    with pytest.raises(ConfigError, match="has 2 labels; this kind of judge needs 1"):
        load_judge(RewardModelJudgeConfig(two), "cpu")
    with pytest.raises(ConfigError, match="has 3 labels; this kind of judge needs 1 or 2"):
        load_judge(ClassifierJudgeConfig(tiny_classifier(tmp_path / "three", labels=3)), "cpu")
    with pytest.raises(ConfigError, match=r"judge.winner = 1, but .* has one label"):
        load_judge(ClassifierJudgeConfig(tiny_classifier(tmp_path / "one"), winner=1), "cpu")
    AutoModelForCausalLM.from_pretrained(two).save_pretrained(tmp_path / "causal", num_labels=1)
    AutoTokenizer.from_pretrained(two).save_pretrained(tmp_path / "causal")
    config = (tmp_path / "causal" / "config.json").read_text().replace('"model_type"', '"num_labels": 1, "model_type"')
    (tmp_path / "causal" / "config.json").write_text(config.replace('"LABEL_1": 1', '"LABEL_0": 0'))
    with pytest.raises(ConfigError, match=r"no weights for score\.weight"):
        load_judge(RewardModelJudgeConfig(str(tmp_path / "causal")), "cpu")
    with pytest.raises(ConfigError, match="has no chat template"):
        load_judge(RewardModelJudgeConfig(tiny_classifier(tmp_path / "plain", template=False)), "cpu")


@pytest.mark.parametrize("config", [RewardModelJudgeConfig, ClassifierJudgeConfig, LocalLMJudgeConfig])
def test_a_missing_model_is_named(config, tmp_path):
    with pytest.raises(MissingResource, match="Cannot load the model '/no/such/model'"):
        load_judge(config("/no/such/model"), "cpu")
    with pytest.raises(MissingResource, match="Cannot load the model"):
        load_judge(config(str(tmp_path)), "cpu")


def test_nothing_is_truncated(tmp_path):
    judge = load_judge(RewardModelJudgeConfig(tiny_classifier(tmp_path)), "cpu")
    fits = " ".join("a" * 27)  # 32 tokens with the prompt and the marks
    assert ask(judge, ["b"], [fits], ["a"]).shape == (1,)
    with pytest.raises(JudgeError, match="33 tokens is longer than the judge's context of 32"):
        ask(judge, ["b"], [fits + " a"], ["a"])


@pytest.mark.parametrize("kind", [RewardModelJudgeConfig, ClassifierJudgeConfig])
def test_a_reward_that_is_not_finite_is_refused(tmp_path, kind):
    config = kind(tiny_classifier(tmp_path))
    judge = load_judge(dataclasses.replace(config, template=SHORT) if kind is ClassifierJudgeConfig else config, "cpu")
    with torch.no_grad():
        judge.classifier.model.get_input_embeddings().weight[WORDS.index("h")] = torch.nan
    assert np.isfinite(ask(judge, ["a"], ["b"], ["c"])).all()
    with pytest.raises(JudgeError, match=r"answered \[nan\] to the text .* h"):
        ask(judge, ["a"], ["b"], ["h"])


class Answering:
    """A reward judge that answers what it is told, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def prefer(self, prompts, a, b):
        raise NotImplementedError

    def reward(self, prompts, answers):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("no route"), "ConnectionError: no route"),
        (np.zeros((2, 1)), r"\(2, 1\) to 2 questions"),
        (np.array([0.5, np.inf]), "inf, which is not a finite reward, in row 1"),
    ],
)
def test_no_reward_is_invented(answer, message):
    with pytest.raises(JudgeError, match=message):
        OwnReward(Answering(answer)).score(["x", "x"], ["a", "b"])


def test_its_own_reward_is_used_as_it_is():
    np.testing.assert_array_equal(OwnReward(Answering(np.array([3, -2]))).score(["x", "x"], ["a", "b"]), [3.0, -2.0])


@pytest.mark.parametrize(("labels", "winner"), [(1, 0), (2, 0), (2, 1)])
def test_a_pairwise_classifier_is_the_mean_of_both_orders(tmp_path, labels, winner):
    path = tiny_classifier(tmp_path, BertConfig, labels, pad_token_id=0)
    judge = load_judge(ClassifierJudgeConfig(path, template=SHORT, winner=winner, tokens_per_batch=50), "cpu")
    shown = [(PROMPTS, A, B), (PROMPTS, B, A)]
    logits = [
        by_hand(path, [SHORT.format(prompt=x, a=y, b=z) for x, y, z in zip(*s, strict=True)], True) for s in shown
    ]
    forward, backward = (
        expit(one[:, 0]) if labels == 1 else np.exp(one[:, winner]) / np.exp(one).sum(1) for one in logits
    )
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), (forward + 1 - backward) / 2, atol=1e-5)
    np.testing.assert_allclose(ask(judge, PROMPTS, B, A), (backward + 1 - forward) / 2, atol=1e-5)
    judge.drain_metrics()
    p = judge.prefer(PROMPTS, A, B)
    assert p[3] == 0.5  # the same text twice
    found, differ = drain(judge), np.array([0, 1, 2, 4])
    flips = ((forward > 0.5) == (backward > 0.5))[differ].mean()
    assert found.pop("seconds_per_comparison") > 0
    expected = {
        "comparisons": 5,
        "order_disagreement": flips,
        "first_preferred": (forward + backward)[differ].mean() / 2,
    }
    assert found == pytest.approx(expected, abs=1e-5)
    assert drain(judge) == {}


class FirstShown(TwoOrderJudge):
    """Says what it is told of each pair as it is shown."""

    def __init__(self, table, remember):
        super().__init__(remember)
        self.table, self.read = table, []

    def first_wins(self, rows):
        self.read.extend(rows)
        return np.array([self.table[first, second] for _, first, second in rows])


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9), st.booleans(), st.data())
@settings(derandomize=True, deadline=None)
def test_what_two_orders_promise(values, remember, data):
    """Antisymmetric, equal texts tie, each distinct showing is read once; disagreement as it is defined."""
    table = {(y, z): values[3 * i + j] for i, y in enumerate("abc") for j, z in enumerate("abc")}
    judge = FirstShown(table, remember)
    a = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
    b = data.draw(st.lists(st.sampled_from("abc"), min_size=len(a), max_size=len(a)))
    p = judge.prefer(["x"] * len(a), a, b)
    np.testing.assert_allclose(p, [(table[y, z] + 1 - table[z, y]) / 2 for y, z in zip(a, b, strict=True)])
    assert all(value == 0.5 for value, y, z in zip(p, a, b, strict=True) if y == z)
    assert len(judge.read) == len(set(judge.read))
    found, pairs = drain(judge), [(y, z) for y, z in zip(a, b, strict=True) if y != z]
    assert found["comparisons"] == len(a)
    assert ("order_disagreement" in found) == bool(pairs)
    if pairs:
        flips = [
            (table[y, z] > 0.5 and table[z, y] > 0.5) or (table[y, z] < 0.5 and table[z, y] < 0.5) for y, z in pairs
        ]
        assert found["order_disagreement"] == pytest.approx(np.mean(flips))
        assert found["first_preferred"] == pytest.approx(np.mean([table[y, z] + table[z, y] for y, z in pairs]) / 2)
    read = len(judge.read)
    np.testing.assert_allclose(judge.prefer(["x"] * len(a), b, a), 1 - p)
    assert len(judge.read) == (read if remember else 2 * read)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A tiny chat model that may answer A, B or nothing."""
    path = tmp_path_factory.mktemp("speaker")
    finite.build_model(path, ["A", "B"], seed=3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("A")] = 2.2  # neither letter always wins
        model.lm_head.bias[tokenizer.eos_token_id] = 0.5
    model.save_pretrained(path)
    return str(path)


@torch.no_grad()
def first_letter(path, x, y, z):
    """(p(A), p(B)) of a reply's first token, the question read alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    message = {"role": "user", "content": SHORT.format(prompt=x, a=y, b=z)}
    ids = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    p = model(input_ids=ids["input_ids"]).logits[0, -1].double().softmax(-1)
    return [float(p[tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB"]


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_a_language_model_judges_by_the_first_letter_of_its_reply(speaker, budget):
    config = LocalLMJudgeConfig(speaker, template=SHORT, tokens_per_batch=budget)
    judge = load_judge(config, "cpu")
    words = [
        "prompt",
        "answer prompt",
        "answer",
        "Improve the previous answer.",
        "Phrase it as if",
        "A",
        "B B B answer",
    ]
    x, a, b = words[:5], words[2:], [*words[3:], "B"]
    forward, backward = (
        np.array([first_letter(speaker, *row) for row in zip(*s, strict=True)]) for s in ((x, a, b), (x, b, a))
    )
    f, g = (one[:, 0] / one.sum(1) for one in (forward, backward))
    np.testing.assert_allclose(ask(judge, x, a, b), (f + 1 - g) / 2, atol=1e-5)
    assert np.ptp(f) > 0.1
    found = drain(judge)
    assert found["letter_mass"] == pytest.approx(np.concatenate([forward, backward]).sum(1).mean(), abs=1e-5)
    assert found["letter_mass"] < 0.95
    assert found["first_preferred"] == pytest.approx((f + g).mean() / 2, abs=1e-5)


def test_questions_that_a_language_model_cannot_be_asked(speaker, tmp_path):
    judge = load_judge(LocalLMJudgeConfig(speaker, template=SHORT), "cpu")
    overhead = len(judge._encode([judge._render("a", "a", "a")])[0])
    assert ask(judge, ["a"], [" ".join("b" * (1024 - overhead))], ["a"]).shape == (1,)
    with pytest.raises(JudgeError, match="longer than the judge's context of 1023"):
        ask(judge, ["a"], [" ".join("b" * (1025 - overhead))], ["a"])
    finite.build_model(tmp_path, ["A"], seed=0)
    with pytest.raises(ConfigError, match=r"The letter B .* is not one token"):
        load_judge(LocalLMJudgeConfig(str(tmp_path), template=SHORT), "cpu")
    AutoModelForCausalLM.from_pretrained(speaker).save_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(speaker)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(ConfigError, match="has no chat template"):
        load_judge(LocalLMJudgeConfig(str(tmp_path / "plain"), template=SHORT), "cpu")


@pytest.mark.parametrize("template", ["{prompt} {a}", "{prompt} {a} {b} {c}", "{prompt} {a} {b} {", "{} {a} {b}"])
@pytest.mark.parametrize("kind", [ClassifierJudgeConfig, LocalLMJudgeConfig])
def test_a_template_must_show_everything(template, kind):
    with pytest.raises(InvalidParameter, match="template"):
        kind("x", template=template)


def test_the_configuration_of_the_attribute_judge_stays_what_run_directories_are_named_by():
    assert dataclasses.asdict(AttributeJudgeConfig()) == {"kind": "attributes", "dtype": "auto"}


def test_agreement_is_with_the_side_of_the_mean():
    meter = Meter()
    meter.votes(("x", "y", "z"), np.array([[1, 1, 0], [0, 0.5, 0], [0.5, 1, 0], [0.9, 0.2, 0.3]]))
    # verdicts: for, against, none, against
    assert meter.drain() == pytest.approx({"agreement_x": 2 / 3, "agreement_y": 2.5 / 3, "agreement_z": 2 / 3})
    meter.votes(("x", "y"), np.array([[1, 0]]))
    assert meter.drain() == {}


def test_a_meter_starts_again_and_knows_its_totals():
    meter = Meter()
    meter.count("requests")
    meter.count("requests", 2)
    meter.average("m", [1.0, 2.0])
    meter.average("m", [6.0])
    meter_orders(meter, np.zeros(1), np.zeros(1), np.zeros(1, bool))
    assert meter.drain() == {"requests": 3, "m": 3.0}
    assert meter.drain() == {}
    assert "m" not in COUNTS


def test_a_judge_without_a_meter_has_no_metrics():
    assert drain(MatrixJudge(np.full((2, 2), 0.5), ["a", "b"])) == {}
