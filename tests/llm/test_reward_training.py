"""Training of reward heads: the loss and its gradient, independence of the heads, resuming, and what is reported."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from llm import reward_training
from llm.data import Comparison
from llm.policy import LoRA
from llm.reward_heads import RewardHeads
from llm.reward_training import (
    Reader,
    RewardTrainConfig,
    backward,
    clip_each,
    cluster_bootstrap,
    gather,
    hold_out,
    prepare,
    reliability_bins,
    train_heads,
)
from slhf.errors import InvalidData, InvalidParameter, TrainingError
from slhf.runs import Run
from tests.llm.test_reward_ensemble import moved
from tests.llm.tiny_llama import WORDS, build_llama

pytestmark = pytest.mark.numeric

LORA = LoRA(rank=2, alpha=4.0, layers=2)
CONFIG = RewardTrainConfig(LORA, learning_rate=1e-2, epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    build_llama(path)
    return str(path)


def create(base, attributes):
    return RewardHeads.create(base, attributes, LORA, "float32", "cpu", seed=0)


def comparisons(count, seed, attributes=("likes_a", "likes_b")):
    """By each attribute, the answer with more of its letter is better; three answers to each prompt."""
    rng = np.random.default_rng(seed)
    found = {name: [] for name in attributes}
    for i in range(count):
        conversation = ({"role": "user", "content": f"prompt {' '.join(rng.choice(WORDS, size=1 + i % 4))}"},)
        answers = [" ".join(rng.choice(WORDS, size=rng.integers(1, 7))) for _ in range(3)]
        for name, (k, j) in product(attributes, combinations(range(3), 2)):
            letter = name[-1]
            mine, other = (answers[n].split().count(letter) for n in (j, k))
            if mine != other:
                chosen, rejected = (answers[j], answers[k]) if mine > other else (answers[k], answers[j])
                found[name].append(Comparison(conversation, chosen, rejected))
    return found


def test_gather_brings_the_answers_of_a_conversation_together():
    x, z = ({"role": "user", "content": "x"},), ({"role": "user", "content": "z"},)
    first, second = gather(
        {
            "one": [Comparison(x, "a", "b"), Comparison(x, "c", "a")],
            "two": [Comparison(z, "a", "b"), Comparison(x, "b", "c")],
        }
    )
    assert (first.conversation, first.answers) == (x, ("a", "b", "c"))
    assert first.comparisons == ((0, 0, 1), (0, 2, 0), (1, 1, 2))
    assert (second.conversation, second.comparisons) == (z, ((1, 0, 1),))
    with pytest.raises(InvalidData, match="no comparison by 'two'"):
        gather({"one": [Comparison(x, "a", "b")], "two": []})


def gradients(heads, budget, data, kept=True, monkeypatch=None):
    if not kept:
        monkeypatch.setattr(reward_training, "KEPT_BYTES", 0)
    for p in heads.parameters().values():
        p.requires_grad_().grad = None
    examples, _ = prepare(heads, gather(data))
    read = Reader(heads, examples)
    assert bool(read.kept) == kept
    row = backward(read, examples, RewardTrainConfig(LORA, centring=0.3, tokens_per_micro_batch=budget))
    return row, {name: p.grad.clone() for name, p in heads.parameters().items()}


def test_the_gradient_is_that_of_the_loss_however_the_batch_is_read(base, monkeypatch):
    """Against autograd through each text read alone."""
    heads, data = moved(create(base, ["likes_a", "likes_b"])), comparisons(6, seed=0)
    row, whole = gradients(heads, 10**6, data)
    again, parts = gradients(heads, 1, data, kept=False, monkeypatch=monkeypatch)
    for p in heads.parameters().values():
        p.grad = None

    def reward(k, c, answer):
        tree = reward_training.plant([heads.encode(c.conversation, answer)])
        return heads.read(reward_training.TreeBatch.pack(tree, heads.pad, "cpu"))[k, 0]

    loss = torch.zeros(())
    for k, cs in enumerate(data.values()):
        for c in cs:
            ours, theirs = reward(k, c, c.chosen), reward(k, c, c.rejected)
            loss = loss + (-torch.sigmoid(ours - theirs).log() + 0.3 * (ours + theirs) ** 2) / len(cs)
    loss.backward()
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert again["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["accuracy"] == again["accuracy"]
    for name, p in heads.parameters().items():
        scale = float(p.grad.abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(whole[name], p.grad, atol=1e-4 * scale, rtol=1e-3)
        torch.testing.assert_close(parts[name], p.grad, atol=1e-4 * scale, rtol=1e-3)


def test_each_head_is_clipped_alone(base):
    heads = create(base, ["one", "two"])
    for p in heads.parameters().values():
        p.grad = torch.ones_like(p)
        p.grad[1] *= 1e-6
    small = heads.score.grad[1].clone()
    assert clip_each(heads, 1.0, 0)["grad_norm"] > 1
    norm = sum(float(p.grad[0].square().sum()) for p in heads.parameters().values()) ** 0.5
    assert norm == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(heads.score.grad[1], small)
    heads.score.grad[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="Step 3"):
        clip_each(heads, 1.0, 3)


def trained(base, path, data, config=CONFIG):
    heads = create(base, list(data))
    run = Run.open(path, "reward", {"attributes": list(data)})
    assert train_heads(heads, gather(data), config, run, seed=0) == 0
    return heads, run


def test_heads_learn_what_they_are_taught_and_it_is_reported(base, tmp_path):
    data = comparisons(300, seed=0)
    heads, run = trained(base, tmp_path, data, RewardTrainConfig(LORA, 2e-2, epochs=4, batch_size=8))
    rows, left_out = hold_out(heads, gather(comparisons(150, seed=1)), resamples=200, seed=0)
    assert [row.attribute for row in rows] == ["likes_a", "likes_b"]
    assert left_out == 0
    for row in rows:
        assert 0.75 < row.low <= row.accuracy <= row.high
        assert row.log_loss < 0.5
        assert row.by_length < 0.8
        assert sum(b["n"] for b in row.bins) == row.comparisons
    logged = run.metrics()
    assert logged[-1]["accuracy_likes_a"] > logged[0]["accuracy_likes_a"]
    assert [row["step"] for row in logged] == list(range(4 * -(-len(gather(data)) // 8)))


def test_heads_trained_together_are_as_if_trained_alone(base, tmp_path):
    """All comparisons of a conversation have both attributes here, so that the batches are the same."""
    data = comparisons(12, seed=0, attributes=("likes_a",))["likes_a"]
    other = [Comparison(c.conversation, c.rejected, c.chosen) for c in data]
    together, _ = trained(base, tmp_path / "both", {"one": data, "two": other})
    alone, _ = trained(base, tmp_path / "alone", {"two": other})
    for name, p in alone.parameters().items():
        torch.testing.assert_close(together.parameters()[name][1], p[0], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.score[0], together.score[1], atol=1e-2)


def test_an_epoch_is_every_conversation_once_in_an_order_of_its_own(base, tmp_path, monkeypatch):
    read, of_all = [], reward_training.backward

    def backward(reader, batch, config):
        read.append([id(example) for example in batch])
        return of_all(reader, batch, config)

    monkeypatch.setattr(reward_training, "backward", backward)
    trained(base, tmp_path, comparisons(16, seed=0), RewardTrainConfig(LORA, epochs=2, batch_size=5))
    first, second = ([x for batch in half for x in batch] for half in (read[: len(read) // 2], read[len(read) // 2 :]))
    assert len(set(first)) == len(first) == len(gather(comparisons(16, seed=0)))
    assert sorted(first) == sorted(second)
    assert first != second


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [0, 3, 4], ids=["at once", "within an epoch", "after its last step"])
def test_an_interrupted_training_goes_on_to_the_bit(base, tmp_path, monkeypatch, step):
    data = comparisons(16, seed=0)  # two steps an epoch
    whole, run = trained(base, tmp_path / "whole", data)
    log = Run.log

    def die(self, metrics, file="metrics.jsonl"):
        log(self, metrics, file)
        if metrics["step"] == step:
            raise Killed

    monkeypatch.setattr(Run, "log", die)
    with pytest.raises(Killed):
        trained(base, tmp_path / "killed", data)
    monkeypatch.setattr(Run, "log", log)
    resumed, other = trained(base, tmp_path / "killed", data)
    assert other.metrics() == run.metrics()
    for name, p in whole.parameters().items():
        assert torch.equal(resumed.parameters()[name], p), name


def test_what_is_too_long_is_left_out_and_counted(base):
    heads, x = create(base, ["one"]), ({"role": "user", "content": "a"},)
    judged = gather({"one": [Comparison(x, "a", "b " * 60), Comparison(x, "b", "a"), Comparison(x, "c", "a")]})
    (example,), left_out = prepare(heads, judged)
    assert left_out == 1
    assert len(example.comparisons) == 2
    assert sorted(n for tree in example.trees for n in tree.ends) == sorted(
        {*example.comparisons[:, 1:].flatten().tolist()}
    )
    with pytest.raises(InvalidData, match="more than 48 tokens"):
        prepare(heads, gather({"one": [Comparison(x, "a", "b " * 60)]}))


def test_hold_out_agrees_with_the_rewards(base):
    """Accuracy and log loss from rewards read one text at a time; one comparison is left out in the middle."""
    heads = moved(create(base, ["likes_a", "likes_b"]))
    data = comparisons(8, seed=3)
    x = data["likes_a"][4].conversation
    data["likes_a"].insert(4, Comparison(x, "a", "b " * 60))
    rows, left_out = hold_out(heads, gather(data), resamples=100, seed=0)
    assert left_out == 1
    for k, (row, cs) in enumerate(zip(rows, data.values(), strict=True)):
        kept = [c for c in cs if len(c.rejected) < 60]
        margins = [
            float(
                heads.rewards([heads.encode(c.conversation, c.chosen)], 99)[k]
                - heads.rewards([heads.encode(c.conversation, c.rejected)], 99)[k]
            )
            for c in kept
        ]
        assert row.comparisons == len(kept)
        assert row.accuracy == pytest.approx(np.mean(np.array(margins) > 0))
        assert row.log_loss == pytest.approx(np.mean(np.logaddexp(0, -np.array(margins))), abs=1e-4)
        longer = np.mean([(np.sign(len(c.chosen.split()) - len(c.rejected.split())) + 1) / 2 for c in kept])
        assert row.by_length == pytest.approx(max(longer, 1 - longer))


def test_the_bootstrap_resamples_whole_conversations(monkeypatch):
    rng = np.random.default_rng(0)
    values = (rng.random(200) < 0.7).astype(float)
    low, high = cluster_bootstrap(values, np.arange(200), 4000, seed=0)
    half = 1.96 * np.sqrt(values.var() / 200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    repeated = cluster_bootstrap(np.repeat(values, 4), np.repeat(np.arange(200), 4), 4000, seed=0)
    assert repeated == pytest.approx((low, high), abs=1e-12)
    monkeypatch.setattr("llm.reward_training.NUMBERS_AT_A_TIME", 300 * 200)
    assert cluster_bootstrap(values, np.arange(200), 4000, seed=0) == (low, high)


def test_reliability_of_a_calibrated_and_of_a_boastful_head():
    rng = np.random.default_rng(0)
    p = 0.5 + 0.5 * rng.random(20_000)
    right = (rng.random(len(p)) < p).astype(float)
    for honest, confidence in ((True, p), (False, np.minimum(1, p + 0.1))):
        bins = reliability_bins(confidence, right)
        inside = [b["low"] < b["predicted"] < b["high"] for b in bins]
        assert sum(b["n"] for b in bins) == len(p)
        assert all(0.5 <= b["predicted"] <= 1 for b in bins)
        assert np.mean(inside) > 0.8 if honest else np.mean(inside) < 0.2
    (row,) = reliability_bins(np.full(100, 1.0), np.repeat([0.0, 1.0], 50))
    # Wilson's interval of 50 in 100, as tabulated
    assert (row["low"], row["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.mark.parametrize("field", ["learning_rate", "max_grad_norm", "epochs", "batch_size", "tokens_per_micro_batch"])
def test_settings_out_of_range_are_refused(field):
    with pytest.raises(InvalidParameter, match=field):
        RewardTrainConfig(**{field: 0})
