"""Who says which answer is better. Judges read text, never token ids: their tokenizer need not be the policy's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from slhf.errors import JudgeError


class Judge(Protocol):
    """A pairwise preference."""

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """p(a > b | prompt) for each row, float64, shape (batch,), in [0, 1].

        Raises:
            JudgeError: when a preference cannot be given; 1/2 never stands for "I don't know".
        """


@runtime_checkable
class FeatureJudge(Judge, Protocol):
    """A judge that can say what it looks at; a Bradley-Terry reward can be fitted to it (see ``llm.reward``)."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name per feature."""

    def features(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """float64, shape (batch, number of features)."""


@runtime_checkable
class RewardJudge(Judge, Protocol):
    """A judge with a scalar reward of its own, which RLOO maximises as it is."""

    def reward(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """r(prompt, answer), float64, shape (batch,).

        Raises:
            JudgeError: when a reward cannot be given.
        """


@runtime_checkable
class MeteredJudge(Judge, Protocol):
    """A judge that keeps count of what it does."""

    def drain_metrics(self) -> dict[str, float]:
        """What happened since the last call, by name; nothing that did not happen.

        Names in ``llm.judges.meter.COUNTS`` are totals, all others means. Training writes them into
        ``metrics.jsonl`` as ``judge_NAME``, evaluation into its result.
        """


def drain(judge: Judge) -> dict[str, float]:
    """The judge's metrics since the last call; empty for a judge that keeps none."""
    return judge.drain_metrics() if isinstance(judge, MeteredJudge) else {}


def ask(judge: Judge, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """``judge.prefer`` with its answer checked: what every caller in ``llm`` uses.

    Raises:
        JudgeError: the judge raised, or did not answer with one probability per row.
    """
    p = _answer(judge, judge.prefer, prompts, a, b)
    _refuse(judge, prompts, p, ~((p >= 0) & (p <= 1)), "a probability")
    return p


def ask_reward(judge: RewardJudge, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """``judge.reward`` with its answer checked.

    Raises:
        JudgeError: the judge raised, or did not answer with one finite number per row.
    """
    r = _answer(judge, judge.reward, prompts, answers)
    _refuse(judge, prompts, r, ~np.isfinite(r), "a finite reward")
    return r


def ask_features(judge: FeatureJudge, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """``judge.features`` with its answer checked; float64, shape (batch, number of features).

    Raises:
        JudgeError: the judge raised, or did not answer with one finite number per row and feature.
    """
    f = _answer(judge, judge.features, prompts, answers, each=(len(judge.feature_names),))
    _refuse(judge, prompts, f, ~np.isfinite(f).all(1), "finite features")
    return f


def _answer(
    judge: Judge, method: Callable[..., np.ndarray], *texts: Sequence[str], each: tuple[int, ...] = ()
) -> np.ndarray:
    """What the judge says, of shape ``each`` for each row."""
    try:
        found = np.asarray(method(*texts), dtype=np.float64)
    except JudgeError:
        raise
    except Exception as error:  # a judge is anyone's code; whatever it raises ends the run as a judge's failure
        raise JudgeError(f"The judge {_title(judge)} failed: {type(error).__name__}: {error}") from error
    if found.shape != (len(texts[0]), *each):
        raise JudgeError(
            f"The judge {_title(judge)} answered with shape {found.shape} to "
            f"{len(texts[0])} questions; {(len(texts[0]), *each)} was expected."
        )
    return found


def _title(judge: Judge) -> str:
    """How messages call a judge: its ``title`` where it has one, else its class."""
    return str(getattr(judge, "title", type(judge).__name__))


def _refuse(judge: Judge, prompts: Sequence[str], found: np.ndarray, bad: np.ndarray, what: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise JudgeError(
            f"The judge {_title(judge)} answered {found[row]}, which is not {what}, "
            f"in row {row}, for the prompt {prompts[row]!r}."
        )
