"""What the algorithms that play against themselves share: groups of answers to a prompt, judged against each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from llm.experience import Collector, Experience, Texts
from llm.policy import Segment


def collect_groups(at: Collector, prompts: list[str], step: int, groups: int, size: int) -> Experience:
    """``groups`` groups of ``size`` answers y ~ pi(.|x) to each prompt; rows of a group follow each other.

    The signal of an answer is r_i = mean_{j != i} p(y_i > y_j) over the others of its group.
    """
    chat, times = at.policy.chat, groups * size

    with at.phase("generate"):
        session = at.generator.open([chat.prompt(x) for x in prompts])
        session.repeat(times)
        answers = session.sample(at.max_new_tokens, at.seed(step, "leader"))

    prompts = [x for x in prompts for _ in range(times)]
    texts = {"prompt": prompts, "leader": [chat.text(y.ids) for y in answers]}
    rows: list[list[Segment]] = [
        [(chat.prompt(x), None), (y.ids, "leader")] for x, y in zip(prompts, answers, strict=True)
    ]
    return at.experience(
        rows, texts, lambda texts: win_rates(at, texts, size), step, {"leader": answers}, session=session
    )


def win_rates(at: Collector, texts: Texts, size: int) -> np.ndarray:
    """(B,): how often each answer is preferred to the others of its group of ``size``; every pair is asked once."""
    starts = range(0, len(texts["leader"]), size)
    i, j = np.array([(s + a, s + b) for s in starts for a, b in combinations(range(size), 2)]).T
    pairs = {
        "prompt": [texts["prompt"][row] for row in i],
        "first": [texts["leader"][row] for row in i],
        "second": [texts["leader"][row] for row in j],
    }
    p = at.preferences(pairs, "first", "second")
    wins = np.zeros(len(texts["leader"]))
    np.add.at(wins, i, p)
    np.add.at(wins, j, 1 - p)
    return wins / (size - 1)
