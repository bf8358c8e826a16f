"""SPO: Self-Play Preference Optimization (arXiv 2401.04056, Algorithm 1), as a policy gradient.

The policy climbs E[p(y > y')] - tau KL(pi || pi_ref), y' ~ pi held fixed: it is its own opponent.
"""

from __future__ import annotations

from torch import Tensor

from llm.algorithms.self_play import collect_groups
from llm.experience import Collector, Experience, policy_gradient, to_go
from slhf.algorithms import SPO
from slhf.signals import leave_one_out, policy_reward


def collect(spec: SPO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k answers a prompt; each one's reward is r_i = mean_{j != i} p(y_i > y_j)."""
    return collect_groups(at, prompts, step, groups=1, size=spec.samples)


def loss(spec: SPO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """REINFORCE with R_i = r_i - tau l_i and the baseline b_i = 1/2 - tau mean_{j != i} l_j, l = log(pi/pi_ref)(y).

    The whole leave-one-out mean of R would not do: r_j counts a duel with y_i, so it depends on y_i. As the r of a
    prompt add up to k/2, r_i - mean_{j != i} r_j = k/(k-1) (r_i - 1/2): a gradient with temperature tau (k-1)/k
    instead of tau. What r_j says without y_i averages to 1/2 in every sample, so that is the baseline.

    Arguments as in ``stackelberg_gda.loss``.
    """
    r, ratio = experience.signal, experience.log_ratio(logp, "leader")
    others = leave_one_out(ratio.sum(1).view(-1, spec.samples)).view(-1)
    baseline = policy_reward(0.5, others, tau=spec.tau)
    advantage = policy_reward(r[:, None], to_go(ratio), tau=spec.tau) - baseline[:, None]
    return policy_gradient(experience, logp, "leader", advantage), {
        "leader_reward": float(policy_reward(r, ratio.sum(1), tau=spec.tau).mean()),
    }
