import numpy as np
import pytest

from llm import evaluate
from llm.evaluate import all_pairs, compare, round_robin
from llm.judges.matrix import MatrixJudge
from slhf.errors import InvalidData

JUDGE = MatrixJudge(np.array([[0.5, 0.8], [0.2, 0.5]]), ["a", "b"])


def test_round_robin():
    answers = {"first": ["a", "a", "b"] * 10, "second": ["b", "b", "b"] * 10}
    rates = {(r.row, r.column): r for r in round_robin(JUDGE, ["x"] * 30, answers, resamples=2000, seed=0)}
    forward, back = rates["first", "second"], rates["second", "first"]
    assert forward.mean == pytest.approx((0.8 + 0.8 + 0.5) / 3)
    assert forward.n == 30
    assert 0.6 < forward.low < forward.mean < forward.high < 0.8
    assert (back.mean, back.low, back.high) == pytest.approx((1 - forward.mean, 1 - forward.high, 1 - forward.low))


def test_few_prompts_have_a_win_rate_and_no_interval():
    (forward, back) = round_robin(JUDGE, ["x"] * 3, {"first": ["a"] * 3, "second": ["b"] * 3}, 100, 0)
    assert (forward.mean, forward.low, forward.high, forward.n) == (pytest.approx(0.8), None, None, 3)
    assert (back.mean, back.low, back.high, back.n) == (pytest.approx(0.2), None, None, 3)


def test_a_missing_answer_is_named():
    with pytest.raises(InvalidData, match="second has 1 answers for 2 prompts"):
        round_robin(JUDGE, ["x"] * 2, {"first": ["a", "a"], "second": ["b"]}, 10, 0)


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
