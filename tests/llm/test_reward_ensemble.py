"""The ensemble's rewards against ``peft``'s own, one text and one adapter at a time; and what a judge must do."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from scipy.special import expit
from transformers import AutoModelForSequenceClassification

from llm.finite import MODULES, build_model
from llm.judges import FeatureJudge, ask, drain
from llm.judges.config import RewardEnsembleJudgeConfig
from llm.judges.loading import load_judge
from llm.judges.reward_ensemble import RewardEnsembleJudge
from llm.policy import LoRA
from llm.prefix_tree import TreeBatch, plant
from llm.reward_heads import RewardHeads, batches
from slhf.errors import ConfigError, JudgeError, MissingResource
from tests.llm.tiny_llama import WORDS, build_llama

pytestmark = pytest.mark.numeric

ATTRIBUTES = ("kind", "short", "true-ish")
LORA = LoRA(rank=3, alpha=6.0, layers=2)


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


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("ensembles") / "ensemble"
    moved(RewardHeads.create(base, ATTRIBUTES, LORA, "float32", "cpu", seed=0)).save(path)
    return path


@pytest.fixture
def judge(saved):
    return RewardEnsembleJudge.load(saved)


def texts(count, seed=0):
    """Prompts, two rows each, and answers of 1 to 9 words."""
    rng = np.random.default_rng(seed)

    def some(most):
        return [" ".join(rng.choice(WORDS, size=rng.integers(1, most))) for _ in range(count)]

    return [p for p in some(6) for _ in range(2)][:count], some(10)


def naive(directory, base, prompts, answers):
    """One forward pass for each text and each attribute, by peft and transformers alone."""
    tokenizer = RewardHeads.load(directory, "cpu").tokenizer
    columns = []
    for name in json.loads((directory / "ensemble.json").read_text())["attributes"]:
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, str(directory / name)).eval()
        column = []
        for x, y in zip(prompts, answers, strict=True):
            messages = [{"role": "user", "content": x}, {"role": "assistant", "content": y}]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                column.append(model(input_ids=ids).logits.item())
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize(
    "lora",
    [
        LoRA(rank=3, alpha=6.0),
        LORA,
        LoRA(rank=2, alpha=1.0, layers=1, modules=("o_proj", "down_proj")),
        LoRA(rank=2, alpha=4.0, layers=4, modules=("q_proj",)),
    ],
    ids=["all", "last two", "last one", "queries"],
)
def test_rewards_are_those_of_peft_one_at_a_time(base, tmp_path, lora):
    moved(RewardHeads.create(base, ATTRIBUTES, lora, "float32", "cpu", seed=0)).save(tmp_path / "e")
    prompts, answers = texts(16)
    expected = naive(tmp_path / "e", base, prompts, answers)
    assert expected.std(0).min() > 0.1
    np.testing.assert_allclose(RewardEnsembleJudge.load(tmp_path / "e").features(prompts, answers), expected, atol=1e-4)


def test_rewards_do_not_depend_on_the_batch_nor_on_the_trees(judge, monkeypatch):
    prompts, answers = texts(20)
    together = judge.features(prompts, answers)
    alone = np.concatenate([judge.features([x], [y]) for x, y in zip(prompts, answers, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    monkeypatch.setattr("llm.judges.reward_ensemble.READ_TOKENS", 1)
    np.testing.assert_allclose(together, judge.features(prompts, answers), atol=1e-4)


def test_another_architecture(tmp_path):
    """Phi: attention and feed-forward part side by side, biases, other names."""
    build_model(tmp_path / "phi", ["a", "b"], seed=0)
    lora = LoRA(rank=2, alpha=4.0, layers=1, modules=MODULES)
    judge = RewardEnsembleJudge(
        moved(RewardHeads.create(str(tmp_path / "phi"), ["one"], lora, "float32", "cpu", seed=0))
    )
    model, heads = judge.heads.decoder, judge.heads
    text = heads.encode([{"role": "user", "content": "choose"}], "a b a")
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state[0, -1]
    features = judge.features(["choose"] * 2, ["a b a", "b"])
    np.testing.assert_allclose(features[0, 0], float(hidden @ heads.score[0]), atol=1e-5)


sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12, unique_by=tuple)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(sequences, st.integers(1, 20))
def test_a_tree_holds_its_texts_and_each_token_sees_its_own_text(sequence, limit):
    trees = plant(sequence, limit)
    assert sorted(number for tree in trees for number in tree.ends) == list(range(len(sequence)))
    assert all(len(tree.tokens) <= limit or len(tree.ends) == 1 for tree in trees)
    batch = TreeBatch.pack(trees, pad=9, device="cpu")
    for row, end, number in zip(batch.rows.tolist(), batch.ends.tolist(), batch.numbers, strict=True):
        seen = batch.sees[row, end].nonzero().squeeze(1)
        assert batch.ids[row, seen].tolist() == list(sequence[number])
        assert batch.positions[row, seen].tolist() == list(range(len(sequence[number])))
        for i, token in enumerate(seen.tolist()):
            assert batch.sees[row, token].nonzero().squeeze(1).tolist() == seen[: i + 1].tolist()
    assert batch.sees.any(-1).all()


def test_a_common_beginning_is_read_once():
    (tree,) = plant([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6]])
    assert sorted(tree.tokens) == [1, 2, 3, 4, 5, 6]


def test_batches_hold_every_tree_once_within_the_budget():
    trees = plant([[i] * n for i, n in enumerate([5, 9, 4, 20, 8, 5])], limit=1)
    parts = list(batches(trees, 20))
    assert sorted(n for part in parts for tree in part for n in tree.ends) == list(range(6))
    for part in parts:
        sizes = [len(tree.tokens) for tree in part]
        assert len(part) == 1 or (len(part) * max(sizes) <= 20 and min(sizes) >= 0.75 * max(sizes))


@pytest.mark.parametrize("preference", ["share", "mean_sigmoid"])
def test_preference(saved, preference):
    judge = load_judge(RewardEnsembleJudgeConfig(str(saved), preference=preference), "cpu")
    assert isinstance(judge, FeatureJudge)
    assert judge.feature_names == ATTRIBUTES
    (prompts, a), (_, b) = texts(12), texts(12, seed=1)
    a[0] = b[0]
    r, s = np.split(judge.features([*prompts, *prompts], [*a, *b]), 2)
    p, found = ask(judge, prompts, a, b), drain(judge)
    if preference == "share":
        np.testing.assert_array_equal(p, ((r > s) + 0.5 * (r == s)).mean(1))
        assert set(np.round(p * 6)) > {2.0, 3.0, 4.0}
    else:
        np.testing.assert_allclose(p, expit(r - s).mean(1))
    np.testing.assert_allclose(p + ask(judge, prompts, b, a), 1)
    assert p[0] == 0.5
    verdict = np.sign(p - 0.5)[:, None]
    agreement = (1 + np.sign(r - s) * verdict)[verdict[:, 0] != 0].mean(0) / 2
    for name, value in zip(ATTRIBUTES, agreement, strict=True):
        assert found.pop(f"agreement_{name}") == pytest.approx(value)
    assert found.pop("seconds_per_comparison") > 0
    assert found == {"comparisons": 12}


def test_each_distinct_text_is_read_once(saved, monkeypatch):
    read = []
    rewards = RewardHeads.rewards
    monkeypatch.setattr(RewardHeads, "rewards", lambda self, t, b: (read.append(len(t)), rewards(self, t, b))[1])
    judge = RewardEnsembleJudge.load(saved, remember=True)
    judge.prefer(["a", "a", "b"], ["c", "d", "c"], ["d", "c", "c"])
    assert read == [3]
    judge.prefer(["a"], ["c"], ["a"])
    assert read == [3, 1]
    assert judge.features([], []).shape == (0, 3)


def test_a_sign_turns_an_attribute_round(saved, judge, tmp_path):
    other = tmp_path / "turned"
    shutil.copytree(saved, other)
    record = json.loads((other / "ensemble.json").read_text())
    (other / "ensemble.json").write_text(json.dumps({**record, "signs": [1, -1, 1]}))
    turned = RewardEnsembleJudge.load(other).features(["a"], ["b"])
    np.testing.assert_allclose(turned, judge.features(["a"], ["b"]) * [1, -1, 1])


def test_a_text_that_is_too_long_is_refused(judge):
    with pytest.raises(JudgeError, match="longer than the judge's context of 48"):
        judge.prefer(["a"], ["b " * 60], ["c"])


def broken(saved, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    change(copy)
    return copy


def write(text):
    return lambda copy: (copy / "ensemble.json").write_text(text)


def resigned(copy):
    record = json.loads((copy / "ensemble.json").read_text())
    (copy / "ensemble.json").write_text(json.dumps({**record, "signs": [1, 2, 1]}))


def reshaped(copy):
    record = json.loads((copy / "ensemble.json").read_text())
    (copy / "ensemble.json").write_text(json.dumps({**record, "lora": {**record["lora"], "rank": 5}}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda copy: (copy / "ensemble.json").unlink(), MissingResource, "no reward ensemble in .*train_reward"),
        (write("{"), ConfigError, "ensemble.json is not what training wrote"),
        (write('{"attributes": []}'), ConfigError, "lora"),
        (resigned, ConfigError, "1 or -1"),
        (reshaped, ConfigError, "does not fit"),
        (lambda copy: shutil.rmtree(copy / "short"), ConfigError, "lacks .*short"),
        (lambda copy: (copy / "kind" / "adapter_model.safetensors").write_bytes(b"no"), ConfigError, "kind"),
    ],
)
def test_a_broken_ensemble_is_refused(saved, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        RewardEnsembleJudge.load(broken(saved, tmp_path, change))


@pytest.mark.parametrize(
    ("attributes", "lora", "message"),
    [
        (["a/b"], LORA, "letters, digits"),
        (["a", "a"], LORA, "distinct"),
        ([], LORA, "at least one"),
        (["a"], LoRA(layers=9), "the model has 4 layers"),
        (["a"], LoRA(modules=("q_proj", "wrong")), "no linear module wrong"),
    ],
)
def test_heads_that_cannot_be_are_refused(base, attributes, lora, message):
    with pytest.raises(ConfigError, match=message):
        RewardHeads.create(base, attributes, lora, "float32", "cpu", seed=0)


def test_a_missing_base_model_is_named(tmp_path):
    with pytest.raises(MissingResource, match="nowhere"):
        RewardHeads.create(str(tmp_path / "nowhere"), ["a"], LORA, "float32", "cpu", seed=0)
