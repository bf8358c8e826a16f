"""Does a judge like length? Its preferences against the difference in length, and the win rate without that difference.

For answers a and b of l_a and l_b words, with d = l_a - l_b and s the root mean square of d over all comparisons,

    p(a > b) = sigma(alpha + beta tanh(d / s)).

beta is the **slope**, in log-odds: 0 for a judge whose verdicts have nothing to do with length. sigma(alpha) is the
**win rate at equal length**. Both are fitted by logistic regression on the judge's probabilities, in the spirit of the
length-controlled AlpacaEval (arXiv 2404.04475), without its terms for the difficulty of each prompt. The slope says
what goes with length, not why: longer answers may be preferred because they say more.

So that verdicts which length separates perfectly have a finite fit, too, beta and the log-odds at the mean of
tanh(d / s) have a normal prior of mean 0 and standard deviation ``PRIOR``. (At that mean and not at d = 0: where a
always wins and is longer, nothing is known about length, and nothing must be found.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from slhf.certificates import Certificate
from slhf.errors import InvalidData, NotConverged
from slhf.intervals import LEAST, percentile
from slhf.runs import derive_seed

PRIOR = 4.0
"""In log-odds; at 80 comparisons it moves a win rate by less than .005."""
TOLERANCE = 1e-9
"""Largest gradient of a fit, per comparison."""
MAX_STEPS = 100
"""Of Newton's method."""
NUMBERS_AT_A_TIME = 2**22
"""Resamples are fitted in groups whose arrays hold no more."""


@dataclass(frozen=True)
class LengthBias:
    """How a win rate depends on the difference in length.

    The intervals are bootstrap ones over prompts; None where the prompts are too few (``slhf.intervals.LEAST``).
    """

    slope: float
    """beta, in log-odds."""
    slope_low: float | None
    slope_high: float | None
    win_rate: float
    """sigma(alpha), at equal length."""
    win_rate_low: float | None
    win_rate_high: float | None
    scale: float
    """s, in words."""
    n: int
    """Prompts."""

    def at(self, difference: np.ndarray) -> np.ndarray:
        """The fitted win rate where a is so many words longer than b, any shape."""
        return expit(logit(self.win_rate) + self.slope * np.tanh(np.asarray(difference) / self.scale))

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)


def words(texts: Sequence[str]) -> np.ndarray:
    """The length of each text in words between white space, float64, shape (len(texts),)."""
    return np.array([len(text.split()) for text in texts], dtype=np.float64)


def length_bias(p: np.ndarray, length_a: np.ndarray, length_b: np.ndarray, resamples: int, seed: int) -> LengthBias:
    """Slope and win rate at equal length (module docstring), with intervals as in ``slhf.intervals``.

    Args:
        p: (n,) or (n, k), p(a > b) of one or k comparisons on each of n prompts.
        length_a: like p, the length of a in words.
        length_b: like p, the length of b.
        resamples: bootstrap resamples of the prompts; the scale s stays that of the whole.
        seed: of the bootstrap.

    Raises:
        InvalidData: the shapes differ, p is not in [0, 1], or the lengths of a and b are equal throughout, so that
            nothing can be said about length.
        NotConverged: a fit stopped before its gradient fell below ``TOLERANCE``.
    """
    p, difference = np.asarray(p, dtype=np.float64), np.subtract(length_a, length_b, dtype=np.float64)
    if p.shape != difference.shape or p.ndim not in (1, 2) or p.size == 0:
        raise InvalidData(f"Preferences of shape {p.shape} do not go with differences in length {difference.shape}.")
    if not ((p >= 0) & (p <= 1)).all():
        raise InvalidData(f"Preferences lie in [0, 1]; there is one of {p[~((p >= 0) & (p <= 1))][0]}.")
    scale = float(np.sqrt(np.mean(difference**2)))
    if scale == 0:
        raise InvalidData("The two answers are equally long in every comparison: no length bias can be measured.")
    n, each = len(p), p[0].size
    z, rng = np.tanh(difference / scale).ravel(), np.random.default_rng(derive_seed(seed, "length bias"))

    def fits(counts: np.ndarray) -> np.ndarray:
        theta = fit(np.repeat(counts, each, axis=1), z - z.mean(), p.ravel())
        return np.stack([expit(theta[:, 0] - theta[:, 1] * z.mean()), theta[:, 1]], -1)

    win_rate, slope = fits(np.ones((1, n)))[0].tolist()
    if n < LEAST:
        return LengthBias(slope, None, None, win_rate, None, None, scale, n)
    group = max(1, NUMBERS_AT_A_TIME // p.size)
    sizes = [min(group, resamples - start) for start in range(0, resamples, group)]
    drawn = np.concatenate([fits(rng.multinomial(n, np.full(n, 1 / n), size)) for size in sizes])
    return LengthBias(slope, *percentile(drawn[:, 1]), win_rate, *percentile(drawn[:, 0]), scale, n)


def fit(weights: np.ndarray, z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(gamma, beta) of R weighted regressions at once, (R, 2), by Newton's method with halved steps.

    Minimises sum_i w_i CE(p_i, sigma(gamma + beta z_i)) + (gamma^2 + beta^2) / (2 PRIOR^2), which is strictly convex.

    Args:
        weights: (R, n), how often each comparison counts.
        z: (n,), what multiplies beta.
        p: (n,), targets in [0, 1].
    """
    x, ridge = np.stack([np.ones_like(z), z], -1), 1 / PRIOR**2
    products = np.stack([x[:, 0] * x[:, 0], x[:, 0] * x[:, 1], x[:, 1] * x[:, 1]], -1)

    def value(theta: np.ndarray) -> np.ndarray:
        score = theta @ x.T
        return (weights * (np.logaddexp(0, score) - p * score)).sum(1) + ridge / 2 * (theta**2).sum(1)

    theta, total = np.zeros((len(weights), 2)), weights.sum(1)
    current = value(theta)
    for _ in range(MAX_STEPS):
        s = expit(theta @ x.T)
        gradient = (weights * (s - p)) @ x + ridge * theta
        slope = float(np.abs(gradient / total[:, None]).max())
        if slope < TOLERANCE:
            return theta
        a, b, c = ((weights * s * (1 - s)) @ products + np.array([ridge, 0, ridge])).T
        step = np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], -1)
        step /= (a * c - b * b)[:, None]
        size = np.ones(len(weights))
        while (worse := (new := value(theta - size[:, None] * step)) > current + 1e-12 * np.abs(current)).any():
            size[worse] /= 2
        theta, current = theta - size[:, None] * step, new
    certificate = Certificate(slope, slope, MAX_STEPS, "Newton")
    raise NotConverged(f"The length regression stopped at gradient {slope:.1e}.", theta, certificate)
