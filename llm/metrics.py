"""What is written about each step: the state of the game, lengths, speed and memory."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from llm.experience import Collector, Experience
from llm.judges.meter import COUNTS
from slhf.errors import TrainingError

LARGEST_GAP = 0.25
"""Nats a token. Where sampler and trainer agree the mean gap is below 1e-3 in float32; the most that bfloat16 kernels
of another engine made of it was .06."""
PROC = Path("/proc/self")
"""Linux: VmHWM in ``status`` is the peak of the resident set; writing 5 to ``clear_refs`` restarts it (proc(5))."""


def of_game(experience: Experience, logp: Tensor, ends: Collection[int]) -> dict[str, float]:
    """What the step's sample says about each role, before the update.

    For each role: ``_kl``, the sum of log pi/pi_ref over an answer; ``_entropy``, the sum of -log pi over it, and
    ``_token_entropy``, its mean per token (both unbiased for the entropy of the sampled policy); ``_tokens``,
    the length; ``_ended``, the share that ended by themselves; ``_base_loglik``, the reference's mean
    log-probability per token. ``exploitability``: see there. ``sampler_gap_mean`` and ``_max``: |log pi of the
    sampler - log pi of the trainer| over scored tokens; a large one means that another policy was sampled than is
    trained.

    Args:
        experience: what was sampled and judged.
        logp: (R, T), the policy's log-probabilities.
        ends: the tokens that end an answer.
    """
    batch, metrics = experience.batch, {}
    ending = torch.isin(batch.ids, torch.tensor(list(ends), device=batch.ids.device))
    for role, owner in batch.owners.items():
        mask, surprise = experience.of(role, owner), -experience.of(role, logp)
        metrics[f"{role}_kl"] = float(experience.log_ratio(logp, role).sum(1).mean())
        metrics[f"{role}_entropy"] = float(surprise.sum(1).mean())
        metrics[f"{role}_token_entropy"] = float(surprise.sum() / mask.sum())
        metrics[f"{role}_tokens"] = float(mask.sum(1).float().mean())
        metrics[f"{role}_ended"] = float(experience.of(role, ending).any(1).float().mean())
        metrics[f"{role}_base_loglik"] = float(experience.of(role, experience.reference).sum() / mask.sum())
    if experience.compared:
        metrics["preference"] = float(experience.signal.mean())
        if experience.replies > 1:
            metrics["exploitability"] = exploitability(experience.signal, experience.replies)
    if experience.sampled is not None:
        gap = (experience.sampled - logp).abs()[batch.scored]
        metrics |= {"sampler_gap_mean": float(gap.mean()), "sampler_gap_max": float(gap.max())}
    return metrics


def require_agreement(row: dict[str, float], step: int) -> None:
    """Stop a run whose answers come from another policy than the one that is trained.

    Raises:
        TrainingError: ``sampler_gap_mean`` of :func:`of_game` is above LARGEST_GAP.
    """
    gap = row.get("sampler_gap_mean", 0.0)
    if gap > LARGEST_GAP:
        raise TrainingError(
            f"Step {step}: the sampler's log-probabilities differ from the trained policy's by {gap:.2f} nats a token "
            f"on average (sampler_gap_mean; at most {LARGEST_GAP}), so that it samples another policy: with vLLM, "
            "perhaps without parts of the adapter. Set model.sampler=transformers, or another dtype or version of vLLM."
        )


def exploitability(preference: Tensor, replies: int) -> float:
    """By how much the best of ``replies`` Follower replies beats an answer: mean of max_j p(y'_j > y) - 1/2.

    In expectation a lower bound, rising with the number of replies, of what a Follower that sees the answer can
    gain, E_y[max_y' p(y' > y)] - 1/2 over all replies the Follower can sample.

    Args:
        preference: (B,), p(y > y'); the replies to one answer in adjacent rows.
        replies: m >= 2.
    """
    return float((1 - preference).view(-1, replies).amax(1).mean()) - 0.5


def of_speed(experience: Experience, collector: Collector) -> dict[str, float]:
    """Seconds per phase; tokens sampled, and tokens read by the update (prompts included), per second."""
    seconds = collector.seconds
    metrics = {f"seconds_{phase}": round(duration, 3) for phase, duration in seconds.items()}
    for name, tokens, phase in (
        ("sampled", experience.generated, "generate"),
        ("trained", int(experience.batch.attention.sum()), "update"),
    ):
        metrics[f"{name}_tokens_per_second"] = round(tokens / seconds[phase], 1)
    return metrics


def of_judge(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """What each process's judge measured in the step (``llm.judges.MeteredJudge``), together, as ``judge_NAME``.

    Totals are summed over the processes, means averaged; the processes' shares of a step differ by one prompt at most.
    """
    together: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            together.setdefault(name, []).append(value)
    return {f"judge_{name}": sum(values) / (1 if name in COUNTS else len(values)) for name, values in together.items()}


def restart_peak_memory() -> None:
    """Forget earlier peaks, where the platform lets us."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # no such file outside Linux, and a container may forbid it
        (PROC / "clear_refs").write_text("5")


def of_memory() -> dict[str, float]:
    """``peak_memory_gib`` of the process and ``peak_device_memory_gib`` of tensors on the GPU, in GiB.

    Since :func:`restart_peak_memory` on a GPU and on Linux; elsewhere since the process began.
    """
    if (PROC / "status").exists():
        peak = int(re.findall(r"VmHWM:\s*(\d+) kB", (PROC / "status").read_text())[0]) * 2**10
    else:  # getrusage counts bytes on a Mac, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
    metrics = {"peak_memory_gib": round(peak / 2**30, 3)}
    if torch.cuda.is_available():
        metrics["peak_device_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return metrics
