"""Intervals over prompts: they cover, and there is none where there are too few prompts, whoever asks."""

import numpy as np
import pytest

from slhf.errors import InvalidData
from slhf.intervals import LEAST, bootstrap, bounds, by_chance, estimate, opposite, side, too_few, with_interval


def test_the_interval_covers_as_often_as_it_says():
    """95 % intervals of 60 uniform draws contain the true mean in about 95 % of 400 repetitions."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap(rng.uniform(size=60), 1000, seed) for seed in range(400)]
    covered = np.mean([low <= 0.5 <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


def test_the_interval_of_a_constant_is_a_point():
    assert estimate(np.full(LEAST, 0.25), 100, 0) == {"mean": 0.25, "low": 0.25, "high": 0.25, "n": LEAST}


@pytest.mark.parametrize("n", [1, LEAST - 1])
def test_few_values_have_a_mean_and_no_interval(n):
    found = estimate(np.full(n, 0.583), 100, 0)
    assert (found["low"], found["high"], found["n"]) == (None, None, n)
    assert side(found) == side(opposite(found)) == "unknown"
    assert with_interval(found) == f"0.583 (n = {n})"
    assert opposite(found)["mean"] == pytest.approx(0.417)
    assert f"here are {n}." in too_few(n)


def test_no_values_have_no_mean():
    with pytest.raises(InvalidData, match="no prompt"):
        estimate(np.zeros(0), 100, 0)


def test_an_older_result_with_an_interval_of_few_prompts_has_none_either():
    row = {"mean": 0.583, "low": 0.58, "high": 0.58, "n": 1}
    assert bounds(row) == (None, None)
    assert side(row) == "unknown"
    assert with_interval(row) == "0.583 (n = 1)"
    assert with_interval({**row, "n": LEAST}) == "0.583 [0.58, 0.58]"
    assert too_few(LEAST) == ""


def test_the_sides_of_an_interval():
    def row(low, high):
        return {"mean": 0.5, "low": low, "high": high}

    assert [side(row(*ends)) for ends in ((0.51, 0.6), (0.5, 0.6), (0.4, 0.5), (0.4, 0.49))] == [
        "above",
        "around",
        "around",
        "below",
    ]
    assert opposite(row(0.4, 0.49)) == {"mean": 0.5, "low": 0.51, "high": 0.6}


def test_many_intervals_carry_the_number_that_chance_would_move():
    """Of 1,000 lists of 40 intervals around equal means, the mean number that leaves out 1/2 is what is said."""
    assert by_chance(3) == ""
    assert "40 intervals at 95 %, about 2.0 would leave out .5" in by_chance(40)
    rng = np.random.default_rng(1)
    out = np.mean([side(estimate(rng.uniform(size=60), 400, k)) != "around" for k in range(400)])
    assert out == pytest.approx(0.05, abs=0.03)
