"""Online iterative DPO (arXiv 2312.11456, 2402.04792): Direct Preference Optimization on the policy's own pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from llm.algorithms.self_play import collect_groups
from llm.experience import Collector, Experience
from slhf.algorithms import OnlineDPO


def collect(spec: OnlineDPO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k pairs y, y' ~ pi(.|x) a prompt, p = judge(x, y, y')."""
    return collect_groups(at, prompts, step, groups=spec.samples, size=2)


def loss(spec: OnlineDPO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """mean of -p log sigma(tau h) - (1 - p) log sigma(-tau h) over the pairs; h as in ``online_ipo.loss``.

    The judge's probability stands in for a coin with that bias. Where this is stationary, sigma(tau h) equals p on
    average: a Bradley-Terry fit weighted by what the policy samples, which is not the KL-Nash equilibrium.

    Arguments as in ``stackelberg_gda.loss``.
    """
    ratio = experience.of("leader", logp - experience.reference).sum(1).view(-1, 2)
    h, p = ratio[:, 0] - ratio[:, 1], experience.signal.view(-1, 2)[:, 0]
    return -(p * logsigmoid(spec.tau * h) + (1 - p) * logsigmoid(-spec.tau * h)).mean(), {
        "margin": float(((2 * p - 1) * h.detach()).mean()),
    }
