"""The scalar reward of RLHF: a judge's own, or one fitted to its preferences.

The fitted one makes RLHF's compression visible: a Bradley-Terry reward, linear in what the judge looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from llm.judges import FeatureJudge, RewardJudge, ask, ask_features, ask_reward
from slhf.certificates import Certificate
from slhf.errors import InvalidParameter, NotConverged


@dataclass(frozen=True)
class OwnReward:
    """The reward that the judge itself gives, checked."""

    judge: RewardJudge

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """float64, shape (batch,)."""
        return ask_reward(self.judge, prompts, answers)


@dataclass(frozen=True)
class LinearReward:
    """r(x, y) = weights . features(x, y) + offset, the offset making the mean over the fitted answers zero."""

    judge: FeatureJudge
    weights: np.ndarray
    offset: float
    certificate: Certificate

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """float64, shape (batch,)."""
        return ask_features(self.judge, prompts, answers) @ self.weights + self.offset

    def to_json(self) -> dict[str, Any]:
        """Weights by feature name, offset and certificate."""
        weights = dict(zip(self.judge.feature_names, self.weights.tolist(), strict=True))
        return {"weights": weights, "offset": self.offset, "certificate": self.certificate.to_json()}

    @classmethod
    def from_json(cls, judge: FeatureJudge, saved: dict[str, Any]) -> LinearReward:
        """What :meth:`to_json` wrote, on a judge with the same features (else ``KeyError``)."""
        weights = np.array([saved["weights"][name] for name in judge.feature_names])
        return cls(judge, weights, saved["offset"], Certificate(**saved["certificate"]))


def fit_reward(
    judge: FeatureJudge, prompts: Sequence[str], a: Sequence[str], b: Sequence[str], l2: float
) -> LinearReward:
    """Bradley-Terry weights for the judge's preferences between ``a`` and ``b``, by penalised likelihood.

    Minimises mean_i CE(p_i, sigma(w . (f(a_i) - f(b_i)))) + (l2 / 2) |w * scale|^2, where ``scale`` is the
    features' standard deviation, so that the penalty does not depend on their units. The certificate's gap
    is the bound |gradient|^2 / (2 l2) of a strongly convex function.

    Raises:
        JudgeError: the judge does not answer with one probability and finite features per row.
        InvalidParameter: l2 is not positive; without a penalty separable preferences have no finite fit.
        NotConverged: the gap stayed above 1e-9.
    """
    if not l2 > 0:
        raise InvalidParameter(f"fit_reward needs l2 > 0 (it makes the fit finite and unique), got {l2}.")
    p = ask(judge, prompts, a, b)
    features = ask_features(judge, [*prompts, *prompts], [*a, *b])
    scale = features.std(0)
    scale[scale == 0] = 1.0  # a feature that never varies gets weight 0 whatever its scale
    x = (features[: len(p)] - features[len(p) :]) / scale

    def value(w: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, x @ w) - p * (x @ w)) + l2 / 2 * w @ w)

    def gradient(w: np.ndarray) -> np.ndarray:
        return x.T @ (expit(x @ w) - p) / len(p) + l2 * w

    def hessian(w: np.ndarray) -> np.ndarray:
        s = expit(x @ w)
        return (x * (s * (1 - s))[:, None]).T @ x / len(p) + l2 * np.eye(x.shape[1])

    found = minimize(
        value, np.zeros(x.shape[1]), method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-12}
    )
    slope = gradient(found.x)
    certificate = Certificate(
        float(slope @ slope / (2 * l2)), float(np.abs(slope).max()), int(found.nit), "trust-region Newton"
    )
    weights = found.x / scale
    reward = LinearReward(judge, weights, float(-(features @ weights).mean()), certificate)
    if certificate.gap > 1e-9:
        raise NotConverged(f"The Bradley-Terry fit stopped at gap {certificate.gap:.1e} > 1e-9.", reward, certificate)
    return reward
