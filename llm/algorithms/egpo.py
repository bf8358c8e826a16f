"""EGPO: Extragradient Preference Optimization (arXiv 2503.08942), on the online IPO loss.

An update takes two steps of the loop, each with fresh answers:

    even: theta_half <- theta - eta g(theta)
    odd:  theta      <- theta - eta g(theta_half)

With Adam in place of the plain steps this is Extra-Adam (arXiv 1802.10551, Algorithm 4): both gradients enter its
moments. The paper's full step takes only the opponent from the half step and prices the KL at the old point; here
all of the gradient is taken at the half step (Korpelevich 1976). The fixed point is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm.algorithms.self_play import collect_groups
from llm.experience import Collector, Experience
from llm.policy import Policy
from slhf.algorithms import EGPO

STEPS_PER_UPDATE = 2


def collect(spec: EGPO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k pairs y, y' a prompt from the policy as it stands: pi at even steps, the half step's at odd ones."""
    return collect_groups(at, prompts, step, groups=spec.samples, size=2)


def loss(spec: EGPO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """tau/4 times the mean of (h - (p - 1/2) / tau)^2 over the pairs, h = log(pi/pi_ref)(y) - log(pi/pi_ref)(y').

    On the policy's own pairs its expected gradient g is minus that of E[p(y > y')] - tau KL(pi || pi_ref), y' held
    fixed. Arguments as in ``stackelberg_gda.loss``.
    """
    ratio = experience.of("leader", logp - experience.reference).sum(1).view(-1, 2)
    h, p = ratio[:, 0] - ratio[:, 1], experience.signal.view(-1, 2)[:, 0]
    return spec.tau / 4 * ((h - (p - 0.5) / spec.tau) ** 2).mean(), {
        "margin": float(((2 * p - 1) * h.detach()).mean()),
    }


def before_step(spec: EGPO, policy: Policy, step: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Even: remember theta, which the optimiser is about to leave. Odd: go back to it, to leave it anew."""
    if step % STEPS_PER_UPDATE == 0:
        return {name: p.detach().clone() for name, p in policy.trainable()}
    with torch.no_grad():
        for name, p in policy.trainable():
            p.copy_(state[name])
    return {}
