"""Inference-time refinement: y_1 ~ pi(.|x), then y_i ~ omega(.|x, y_{i-1}) (arXiv 2512.16626, Section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Answer = TypeVar("Answer")
"""What one round produces: a batch of texts in ``llm``, a distribution over actions in ``tabular``."""


def refine(leader: Callable[[], Answer], follower: Callable[[Answer], Answer], rounds: int) -> Iterator[Answer]:
    """Yield the answers of ``rounds`` rounds: the Leader's, then each time the Follower's reply to the last.

    The Follower sees only the answer it improves on, so the answers form a Markov chain.

    Raises:
        ValueError: ``rounds`` is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"refine needs at least 1 round, got {rounds}.")
    answer = leader()
    yield answer
    for _ in range(rounds - 1):
        answer = follower(answer)
        yield answer
