"""Nash-MD-PG: policy gradient against the geometric mixture with the reference (arXiv 2312.00886, Section 7)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from llm.experience import Collector, Experience, Texts, baseline, policy_gradient, to_go
from llm.policy import Segment
from slhf.algorithms import NashMD
from slhf.signals import policy_reward


def collect(spec: NashMD, at: Collector, prompts: list[str], step: int) -> Experience:
    """k answers y ~ pi a prompt, each against its own y' ~ pi^(1-m) pi_ref^m, mixed token by token."""
    chat, k = at.policy.chat, spec.samples
    opening = [chat.prompt(x) for x in prompts]

    with at.phase("generate"):
        # the opponent first: its cache is gone when the policy's, which the reference reads on from, is made
        rival = at.generator.open(opening, mixture=spec.mixture)
        rival.repeat(k)
        opponents = rival.sample(at.max_new_tokens, at.seed(step, "opponent"))
        del rival
        session = at.generator.open(opening)
        session.repeat(k)
        answers = session.sample(at.max_new_tokens, at.seed(step, "leader"))

    texts = {
        "prompt": [x for x in prompts for _ in range(k)],
        "leader": [chat.text(y.ids) for y in answers],
        "opponent": [chat.text(y.ids) for y in opponents],
    }
    conversations: list[list[Segment]] = [[(opening[i // k], None), (y.ids, "leader")] for i, y in enumerate(answers)]
    samples = {"leader": answers, "opponent": opponents}

    def signal(texts: Texts) -> np.ndarray:
        return at.preferences(texts, "leader", "opponent")

    return at.experience(conversations, texts, signal, step, samples, session=session)


def loss(spec: NashMD, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """The policy gradient of E[p(y > y')] - tau KL(pi || pi_ref), the opponent held fixed.

    Arguments as in ``stackelberg_gda.loss``.
    """
    p, ratio = experience.signal, experience.log_ratio(logp, "leader")
    whole = policy_reward(p, ratio.sum(1), tau=spec.tau)
    advantage = policy_reward(p[:, None], to_go(ratio), tau=spec.tau) - baseline(whole, spec.samples)[:, None]
    return policy_gradient(experience, logp, "leader", advantage), {
        "leader_preferred": float(p.mean()),
        "leader_reward": float(whole.mean()),
    }
