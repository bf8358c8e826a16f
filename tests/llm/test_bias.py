"""Length bias: the fit against scipy's, what symmetry demands, and judges whose bias is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from llm.judges.bias import PRIOR, length_bias, words
from slhf.errors import InvalidData
from slhf.intervals import LEAST, bootstrap


@st.composite
def comparisons(draw):
    """p, lengths of a and b, of up to 30 prompts and 3 comparisons on each; some lengths differ."""
    shape = (draw(st.integers(1, 30)), draw(st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a, b = rng.integers(0, 40, shape), rng.integers(0, 40, shape)
    a[0, 0] = b[0, 0] + 1
    p = rng.choice([rng.random(shape), rng.integers(0, 2, shape), (a > b) * 1.0, np.ones(shape)])
    return p, a, b


def numbers(found):
    return np.array([found.slope, found.slope_low, found.slope_high], dtype=float)  # no bounds (None) are NaN


@given(comparisons())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_the_fit_is_the_minimum_that_scipy_finds(data):
    p, a, b = data
    found, difference = length_bias(p, a, b, 1, 0), a - b
    z = np.tanh(difference / np.sqrt((difference**2).mean()))

    def loss(theta):
        score = theta[0] + theta[1] * (z - z.mean())
        return (np.logaddexp(0, score) - p * score).sum() + (theta**2).sum() / (2 * PRIOR**2)

    gamma, beta = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    assert found.slope == pytest.approx(beta, abs=1e-5)
    assert found.win_rate == pytest.approx(expit(gamma - beta * z.mean()), abs=1e-5)
    assert found.at(0) == pytest.approx(found.win_rate)
    assert found.at(difference.max()) == pytest.approx(expit(gamma + beta * (z.max() - z.mean())), abs=1e-5)


@given(comparisons(), st.integers(2, 9))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_what_symmetry_demands(data, factor):
    """Turning a and b turns the win rate and nothing else; the unit of length does not matter; nor k = 1 as an axis."""
    p, a, b = data
    found, turned = length_bias(p, a, b, 50, 0), length_bias(1 - p, b, a, 50, 0)
    np.testing.assert_allclose(numbers(turned), numbers(found), atol=1e-6)
    ends = ["win_rate", "win_rate_low", "win_rate_high"] if len(p) >= LEAST else ["win_rate"]
    rates, others = ([getattr(fit, name) for name in ends] for fit in (found, turned))
    np.testing.assert_allclose(1 - np.array(others[:1] + others[:0:-1]), rates, atol=1e-6)
    scaled = length_bias(p, factor * a, factor * b, 50, 0)
    np.testing.assert_allclose(numbers(scaled), numbers(found), atol=1e-6)
    assert scaled.scale == pytest.approx(factor * found.scale)
    assert found.n == len(p)
    if p.shape[1] == 1:
        assert length_bias(p[:, 0], a[:, 0], b[:, 0], 50, 0) == found


def lengths(rng, n, longer=0):
    return rng.poisson(30 + longer, n), rng.poisson(30, n)


def test_intervals_of_a_judge_without_bias_hold_zero_and_its_win_rate():
    """At the stated rate, over 200 judges that like quality alone while a is the longer answer."""
    rng, held = np.random.default_rng(0), np.zeros(2)
    for seed in range(200):
        (a, b), p = lengths(rng, 80, longer=8), expit(0.7 + rng.normal(size=80))
        found = length_bias(p, a, b, 200, seed)
        truth = 0.6412  # the mean of expit(0.7 + a standard normal number)
        held += [found.slope_low <= 0 <= found.slope_high, found.win_rate_low <= truth <= found.win_rate_high]
    assert (held >= 178).all(), held  # 190 expected; 200 percentile intervals at n = 80 hold a little less
    assert (held < 200).all(), held


def test_a_judge_that_only_likes_length_is_found():
    rng = np.random.default_rng(0)
    a, b = lengths(rng, 80, longer=8)
    p = (a > b) + 0.5 * (a == b)
    found = length_bias(p, a, b, 500, 0)
    assert p.mean() > 0.75
    assert found.slope_low > 3
    assert found.win_rate_low < 0.5 < found.win_rate_high
    shorter = length_bias(1 - p, a, b, 500, 0)
    assert shorter.slope_high < -3


def test_where_the_longer_always_wins_nothing_is_known_about_length():
    rng = np.random.default_rng(0)
    a, b = lengths(rng, 80, longer=30)
    found = length_bias(np.ones(80), a, b, 500, 0)
    assert abs(found.slope) < 1e-6
    assert found.slope_low < 0 < found.slope_high
    assert found.win_rate > 0.99


@pytest.mark.parametrize(("quality", "slope"), [(0.5, 1.5), (-0.5, 1.5), (0.0, -1.0)])
def test_control_recovers_a_planted_quality(quality, slope):
    rng = np.random.default_rng(0)
    a, b = lengths(rng, 4000, longer=6)
    scale = np.sqrt(((a - b) ** 2).mean())
    p = rng.binomial(1, expit(quality + slope * np.tanh((a - b) / scale)))
    found = length_bias(p, a, b, 300, 0)
    assert found.slope_low <= slope <= found.slope_high
    assert found.slope_high - found.slope_low < 0.5
    assert found.win_rate_low <= expit(quality) <= found.win_rate_high
    raw = bootstrap(p.astype(float), 300, 0)
    assert not raw[0] <= expit(quality) <= raw[1]


def test_prompts_are_resampled_whole():
    """Ten copies of each comparison are no more evidence than one."""
    rng = np.random.default_rng(0)
    (a, b), p = lengths(rng, 50), rng.random(50)
    one = length_bias(p, a, b, 2000, 0)
    ten = length_bias(*(np.repeat(x[:, None], 10, 1) for x in (p, a, b)), 2000, 0)
    width = one.slope_high - one.slope_low
    assert ten.slope_high - ten.slope_low == pytest.approx(width, rel=0.1)
    flat = length_bias(*(np.repeat(x, 10) for x in (p, a, b)), 2000, 0)
    assert flat.slope_high - flat.slope_low < width / 2


def test_groups_of_resamples_are_all_drawn(monkeypatch):
    rng = np.random.default_rng(0)
    (a, b), p = lengths(rng, 20), rng.random(20)
    whole = length_bias(p, a, b, 1000, 0)
    monkeypatch.setattr("llm.judges.bias.NUMBERS_AT_A_TIME", 20 * 300)
    assert numbers(length_bias(p, a, b, 1000, 0)) == pytest.approx(numbers(whole), abs=1e-8)


@pytest.mark.parametrize(
    ("p", "a", "b", "message"),
    [
        ([0.5, 0.5], [1, 2], [1, 2], "equally long in every comparison"),
        ([0.5], [1, 2], [3, 4], "do not go with"),
        ([], [], [], "do not go with"),
        ([0.5, np.nan], [1, 2], [3, 4], "one of nan"),
        ([0.5, 1.5], [1, 2], [3, 4], r"one of 1\.5"),
    ],
)
def test_what_cannot_be_fitted_is_refused(p, a, b, message):
    with pytest.raises(InvalidData, match=message):
        length_bias(np.array(p), np.array(a), np.array(b), 10, 0)


def test_words():
    assert words(["", "a", " a  bc\nd. "]).tolist() == [0, 1, 3]
