"""Each number of ``metrics.jsonl`` against its definition."""

import itertools
import mmap

import numpy as np
import pytest
import torch

from llm import metrics
from llm.algorithms import implementation
from llm.experience import Collector, Experience
from llm.generation import TransformersGenerator
from slhf.algorithms import EGPO, RLOO, NashMD, StackelbergGDA
from tests.llm.tiny import answers, conversation, pack, tiny_policy

pytestmark = pytest.mark.numeric

LABELS = ("a", "b")


class ByLength:
    """Longer is better, by a margin that need not be a multiple of anything; and a reward."""

    def prefer(self, prompts, a, b):
        return np.array([1 / (1 + np.exp(len(y) - len(x))) for x, y in zip(a, b, strict=True)])

    def score(self, prompts, answers):
        return np.array([float(len(y)) for y in answers])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("model"), LABELS, temperature=0.8)


@pytest.fixture(scope="module", params=[StackelbergGDA(leader_samples=2, follower_samples=3), NashMD(), RLOO(), EGPO()])
def collected(request, policy):
    at = Collector(policy, TransformersGenerator(policy), ByLength(), 4, 0, ByLength(), tokens_per_micro_batch=50)
    experience = implementation(request.param).collect(request.param, at, ["choose", "prompt", "answer"], step=0)
    with torch.no_grad():
        return request.param, at, experience, policy.logprobs(experience.batch)


def test_the_sampler_and_the_trainer_agree(collected):
    _, _, experience, logp = collected
    found = metrics.of_game(experience, logp, ends=[2])
    assert found["sampler_gap_max"] < 1e-5  # float32 along two ways of reading
    assert found["sampler_gap_mean"] <= found["sampler_gap_max"]


def test_a_sampler_that_is_not_the_trainer_shows(collected):
    _, _, experience, logp = collected
    moved = logp.clone()
    row, column = experience.batch.scored.nonzero()[3].tolist()
    moved[row, column] += 0.5
    found = metrics.of_game(experience, moved, ends=[2])
    assert found["sampler_gap_max"] == pytest.approx(0.5, abs=1e-4)
    assert found["sampler_gap_mean"] == pytest.approx(0.5 / int(experience.batch.scored.sum()), abs=1e-4)


def test_per_role_numbers(policy):
    y, z = [19, 20, 2], [20]
    batch = pack(policy, [conversation(policy, y, z), conversation(policy, [20], [19, 2])])
    leader, follower = batch.owners["leader"], batch.owners["follower"]
    logp = torch.zeros(batch.ids.shape)
    logp[leader] = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    logp[follower] = torch.tensor([-0.5, -1.5, -2.5])
    reference = logp * 2
    found = metrics.of_game(
        Experience(batch, reference, torch.tensor([0.25, 0.5]), {"a": [], "b": [], "c": []}), logp, [2]
    )
    expected = {
        "leader_kl": 5.0,
        "leader_entropy": 5.0,
        "leader_token_entropy": 2.5,
        "leader_tokens": 2.0,
        "leader_ended": 0.5,
        "leader_base_loglik": -5.0,
        "follower_kl": 2.25,
        "follower_entropy": 2.25,
        "follower_token_entropy": 1.5,
        "follower_tokens": 1.5,
        "follower_ended": 0.5,
        "follower_base_loglik": -3.0,
        "preference": 0.375,
    }
    assert found == pytest.approx(expected)


def test_entropy_is_estimated_without_bias(policy):
    """Over all answers of the tiny policy, weighted by their probability, the estimate is the exact entropy."""
    every = answers(policy, LABELS, 3)
    batch = pack(policy, [conversation(policy, y) for y in every])
    with torch.no_grad():
        logp = policy.logprobs(batch)
    entropy, mean = float(torch.distributions.Categorical(logits=logp.sum(1)).entropy()), 0.0
    for i in range(len(every)):
        one = batch.rows(torch.tensor([i]))
        row = logp[i : i + 1, : one.ids.shape[1]]
        found = metrics.of_game(Experience(one, row, torch.zeros(1), {}), row, ends=[2])
        mean += float(row.sum().exp()) * found["leader_entropy"]
    assert mean == pytest.approx(entropy, rel=1e-5)


def test_exploitability_is_the_best_reply_less_a_half():
    preference = torch.tensor([0.5, 0.2, 0.9, 0.8, 0.7, 0.6])
    assert metrics.exploitability(preference, 3) == pytest.approx((0.8 + 0.4) / 2 - 0.5)
    assert metrics.exploitability(preference, 2) == pytest.approx((0.8 + 0.2 + 0.4) / 3 - 0.5)


def test_exploitability_bounds_the_best_response_from_below():
    """Exactly, over all m-tuples of replies: it rises with m towards E_y[max p(y' > y)] - 1/2."""
    game = torch.tensor([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])
    leader, follower = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]])
    best = float(leader @ (1 - game).amax(1)) - 0.5
    expected = []
    for m in (1, 2, 4, 6):
        total = 0.0
        for y in range(3):
            for replies in itertools.product(range(3), repeat=m):
                weight = float(leader[y]) * float(torch.stack([follower[y, j] for j in replies]).prod())
                total += weight * metrics.exploitability(game[y, list(replies)], m)
        expected.append(total)
    assert expected == sorted(expected)
    assert expected[-1] < best
    assert best - expected[-1] < 0.05


def test_only_several_replies_have_an_exploitability_and_only_comparisons_a_preference(collected):
    spec, _, experience, logp = collected
    found = metrics.of_game(experience, logp, [2])
    assert ("exploitability" in found) == isinstance(spec, StackelbergGDA)
    assert ("preference" in found) == isinstance(spec, StackelbergGDA | NashMD)
    if isinstance(spec, StackelbergGDA):
        p = ByLength().prefer([], experience.texts["leader"], experience.texts["follower"])
        worst = (1 - p).reshape(-1, 3).max(1).mean() - 0.5
        assert found["exploitability"] == pytest.approx(worst, abs=1e-6)


def test_speed_counts_each_sampled_token_once(collected):
    spec, at, experience, _ = collected
    at.seconds["update"], at.seconds["generate"] = 2.0, 4.0
    found = metrics.of_speed(experience, at)
    assert found["trained_tokens_per_second"] == pytest.approx(int(experience.batch.attention.sum()) / 2, abs=0.06)
    if isinstance(spec, StackelbergGDA):  # an answer is in three rows, one for each reply, and was sampled once
        leader = int(experience.batch.owners["leader"][::3].sum())
        follower = int(experience.batch.owners["follower"].sum())
        assert experience.generated == leader + follower
    if isinstance(spec, NashMD):  # opponents are sampled, too
        assert experience.generated > int(experience.batch.scored.sum())
    assert found["sampled_tokens_per_second"] == pytest.approx(experience.generated / 4, abs=0.06)


def test_the_peak_of_memory_restarts(policy):
    metrics.restart_peak_memory()
    low = metrics.of_memory()["peak_memory_gib"]
    with mmap.mmap(-1, 2**28) as pages:  # 0.25 GiB; past malloc, which may still hold what earlier tests freed
        for _ in range(2**8):
            pages.write(b"1" * 2**20)  # in pieces: one large bytes object would come from malloc
    high = metrics.of_memory()["peak_memory_gib"]
    assert high > low + 0.2
    if (metrics.PROC / "clear_refs").exists():
        metrics.restart_peak_memory()
        assert metrics.of_memory()["peak_memory_gib"] < low + 0.05


def test_a_judges_totals_add_up_over_processes_and_its_means_do_not():
    parts = [
        {"comparisons": 2, "cost": 0.5, "order_disagreement": 0.25},
        {"comparisons": 3, "order_disagreement": 0.75},
    ]
    assert metrics.of_judge(parts) == {"judge_comparisons": 5, "judge_cost": 0.5, "judge_order_disagreement": 0.5}
    assert metrics.of_judge([{}, {}]) == {}
