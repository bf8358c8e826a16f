"""RLOO: REINFORCE with leave-one-out baselines on a scalar reward (arXiv 2402.14740)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from llm.experience import Collector, Experience, Texts, baseline, policy_gradient, to_go
from llm.policy import Segment
from slhf.algorithms import RLOO
from slhf.errors import ConfigError
from slhf.signals import policy_reward


def collect(spec: RLOO, at: Collector, prompts: list[str], step: int) -> Experience:
    """k answers a prompt, each with its scalar reward.

    Raises:
        ConfigError: no reward was given to train on.
    """
    if at.reward is None:
        raise ConfigError("RLOO needs a scalar reward; fit one to the judge with llm.reward.fit_reward.")
    reward, chat, k = at.reward, at.policy.chat, spec.samples
    opening = [chat.prompt(x) for x in prompts]

    with at.phase("generate"):
        session = at.generator.open(opening)
        session.repeat(k)
        answers = session.sample(at.max_new_tokens, at.seed(step, "leader"))

    texts = {
        "prompt": [x for x in prompts for _ in range(k)],
        "leader": [chat.text(y.ids) for y in answers],
    }
    conversations: list[list[Segment]] = [[(opening[i // k], None), (y.ids, "leader")] for i, y in enumerate(answers)]

    def signal(texts: Texts) -> np.ndarray:
        return reward.score(texts["prompt"], texts["leader"])

    return at.experience(conversations, texts, signal, step, {"leader": answers}, session=session)


def loss(spec: RLOO, logp: Tensor, experience: Experience) -> tuple[Tensor, dict[str, float]]:
    """The policy gradient of E[r] - tau KL(pi || pi_ref). Arguments as in ``stackelberg_gda.loss``."""
    r, ratio = experience.signal, experience.log_ratio(logp, "leader")
    whole = policy_reward(r, ratio.sum(1), tau=spec.tau)
    advantage = policy_reward(r[:, None], to_go(ratio), tau=spec.tau) - baseline(whole, spec.samples)[:, None]
    return policy_gradient(experience, logp, "leader", advantage), {
        "reward": float(r.mean()),
        "leader_reward": float(whole.mean()),
    }
