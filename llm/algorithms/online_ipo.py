"""Online IPO (arXiv 2403.08635): Identity Preference Optimization on the policy's own pairs."""

from __future__ import annotations

from torch import Tensor

from llm.algorithms.self_play import collect_groups
from llm.experience import Collector, Experience
from slhf.algorithms import OnlineIPO


def collect(spec: OnlineIPO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k pairs y, y' ~ pi(.|x) a prompt, p = judge(x, y, y')."""
    return collect_groups(at, prompts, step, groups=spec.samples, size=2)


def loss(spec: OnlineIPO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """mean of (h - (p - 1/2) / tau)^2 over the pairs, h = log(pi/pi_ref)(y) - log(pi/pi_ref)(y').

    The judge's probability stands in for a coin with that bias, whose expected gradient is the same. That gradient
    is 4 / tau times the one of SPO, so it is zero at the KL-Nash equilibrium.

    Arguments as in ``stackelberg_gda.loss``.
    """
    ratio = experience.of("leader", logp - experience.reference).sum(1).view(-1, 2)
    h, p = ratio[:, 0] - ratio[:, 1], experience.signal.view(-1, 2)[:, 0]
    return ((h - (p - 0.5) / spec.tau) ** 2).mean(), {
        "margin": float(((2 * p - 1) * h.detach()).mean()),
    }
