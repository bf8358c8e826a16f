"""A judge for finitely many answers: it looks the preference up in a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slhf.errors import JudgeError


class MatrixJudge:
    """p(a > b) = matrix[i, j] for the answers' texts ``labels[i]`` and ``labels[j]``, whatever the prompt.

    Its features are the indicators of the answers, so the Bradley-Terry reward fitted to them is one number per
    answer.
    """

    def __init__(self, matrix: np.ndarray, labels: Sequence[str]) -> None:
        if np.shape(matrix) != (len(labels), len(labels)):
            raise JudgeError(f"A matrix of shape {np.shape(matrix)} does not fit {len(labels)} answers.")
        self.matrix = np.array(matrix, dtype=np.float64)
        self.feature_names = tuple(labels)
        self._index = {label: i for i, label in enumerate(labels)}

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`."""
        return self.matrix[self._indices(a), self._indices(b)]

    def features(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """One-hot rows, shape (batch, n)."""
        return np.eye(len(self.matrix))[self._indices(answers)]

    def _indices(self, answers: Sequence[str]) -> list[int]:
        unknown = [answer for answer in answers if answer not in self._index]
        if unknown:
            raise JudgeError(f"{unknown[0]!r} is not one of the judge's answers {', '.join(self.feature_names)}.")
        return [self._index[answer] for answer in answers]
