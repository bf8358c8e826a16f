import numpy as np
import pytest

from llm.evaluate import bootstrap, round_robin
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
