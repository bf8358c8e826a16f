import numpy as np
import pytest

from llm import evaluate
from llm.evaluate import all_pairs, bootstrap, compare, estimate, round_robin
from llm.judges.matrix import MatrixJudge
from slhf.errors import InvalidData

JUDGE = MatrixJudge(np.array([[0.5, 0.8], [0.2, 0.5]]), ["a", "b"])


def test_round_robin():
    answers = {"first": ["a", "a", "b"], "second": ["b", "b", "b"]}
    rates = {(r.row, r.column): r for r in round_robin(JUDGE, ["x"] * 3, answers, resamples=2000, seed=0)}
    forward, back = rates["first", "second"], rates["second", "first"]
    assert forward.mean == pytest.approx((0.8 + 0.8 + 0.5) / 3)
    assert forward.n == 3
    assert forward.low == pytest.approx(0.5)
    assert forward.high == pytest.approx(0.8)
    assert (back.mean, back.low, back.high) == pytest.approx((1 - forward.mean, 1 - forward.high, 1 - forward.low))


def test_a_missing_answer_is_named():
    with pytest.raises(InvalidData, match="second has 1 answers for 2 prompts"):
        round_robin(JUDGE, ["x"] * 2, {"first": ["a", "a"], "second": ["b"]}, 10, 0)


def test_the_interval_covers_as_often_as_it_says():
    """95 % intervals of 60 uniform draws contain the true mean in about 95 % of 400 repetitions."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap(rng.uniform(size=60), 1000, seed) for seed in range(400)]
    covered = np.mean([low <= 0.5 <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


class Counting:
    """p is 1 if the first text is longer; keeps the batches it was asked."""

    def __init__(self):
        self.batches = []

    def prefer(self, prompts, a, b):
        self.batches.append(list(zip(prompts, a, b, strict=True)))
        return np.array([float(len(y) > len(other)) for y, other in zip(a, b, strict=True)])


def test_a_text_is_even_with_itself_and_nothing_is_asked_twice(monkeypatch):
    monkeypatch.setattr(evaluate, "COMPARISONS_AT_ONCE", 2)
    judge = Counting()
    p = compare(judge, ["x", "x", "y", "x", "z"], ["aa", "b", "aa", "aa", "c"], ["b", "b", "b", "b", "cc"])
    assert p.tolist() == [1, 0.5, 1, 1, 0]
    assert judge.batches == [[("x", "aa", "b"), ("y", "aa", "b")], [("z", "c", "cc")]]
    assert compare(judge, ["x"], ["same"], ["same"]).tolist() == [0.5]
    with pytest.raises(InvalidData, match="1 answers for 2 prompts"):
        compare(judge, ["x", "y"], ["a", "b"], ["a"])


def test_all_pairs_are_judged_in_one_order_each():
    judge = Counting()
    answers = [["a", "bbb"], ["aa", "b"], ["a", "bb"]]
    p = all_pairs(judge, ["x", "y"], answers)
    for k in range(2):
        for i in range(3):
            for j in range(3):
                first, second = min(i, j), max(i, j)
                once = (
                    0.5 if answers[i][k] == answers[j][k] else float(len(answers[first][k]) > len(answers[second][k]))
                )
                assert p[k, i, j] == (once if i <= j else 1 - once)
    assert sum(map(len, judge.batches)) == 5
    assert all_pairs(judge, ["x", "y"], answers[:1]).tolist() == [[[0.5]], [[0.5]]]


def test_the_interval_of_a_constant_is_a_point():
    assert estimate(np.full(7, 0.25), 100, 0) == {"mean": 0.25, "low": 0.25, "high": 0.25, "n": 7}
    assert estimate(np.array([1.0]), 100, 0) == {"mean": 1, "low": 1, "high": 1, "n": 1}
