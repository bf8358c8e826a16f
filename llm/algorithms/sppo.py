"""SPPO: Self-Play Preference Optimization by regression (arXiv 2405.00675, Algorithm 1), with a new pi_t every step."""

from __future__ import annotations

from torch import Tensor

from llm.algorithms.self_play import collect_groups
from llm.experience import Collector, Experience
from slhf.algorithms import SPPO


def collect(spec: SPPO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k answers of pi_t a prompt; P^(y_i > pi_t) is the mean of p(y_i > y_j) over the *others*, so unbiased."""
    return collect_groups(at, prompts, step, groups=1, size=spec.samples)


def loss(spec: SPPO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """mean of (log(pi/pi_t)(y) - eta (P^(y > pi_t) - 1/2))^2 / (2 eta) over the answers.

    pi_t is the policy that sampled them, which at the one gradient step taken on them is pi itself: there the
    gradient is -(P^ - 1/2) grad log pi(y). Divided by 2 eta, it does not depend on eta, the learning rate, which
    the optimiser multiplies it with.

    Arguments as in ``stackelberg_gda.loss``.
    """
    eta, win_rate = spec.learning_rate, experience.signal
    whole = experience.of("leader", logp).sum(1)
    log_ratio = whole - whole.detach()
    regression = ((log_ratio - eta * (win_rate - 0.5)) ** 2).mean() / (2 * eta)
    return regression, {
        "leader_win_rate_spread": float(win_rate.std()),
    }
