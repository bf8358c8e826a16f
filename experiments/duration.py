"""How long a sweep will take on this processor, told before it starts.

The plan's FLOPs (:mod:`experiments.plan`), over the rate of a matrix product measured here for a moment, times what
the quickstart took of that where it was measured. So it is an estimate for runs like the quickstart, within about a
third on an idle machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments import plan, side_by_side
from experiments.config import LanguageModelSweep, load_sweep, runs_of
from experiments.shapes import shape_of
from llm.judges.config import AttributeJudgeConfig
from slhf.algorithms import StackelbergGDA
from slhf.errors import ConfigError

SLOWER = 3.2
"""Seconds that the quickstart took, over the plan's: 16.2 minutes against 5.1, on two idle cores with AVX2."""


def expected_minutes(sweeps: Sequence[LanguageModelSweep], done: Sequence[int] = ()) -> float | None:
    """Minutes to train and evaluate all of the sweeps here; None where no such estimate is to be had.

    That is on a GPU, whose speed is not measured, and for models, judges and algorithms that the plan does not know.

    Args:
        sweeps: what is run.
        done: how many steps of each run, in their order, are done already; none by default.
    """
    first = sweeps[0]
    if not isinstance(first.judge, AttributeJudgeConfig) or side_by_side.computes_elsewhere([first.model.name]):
        return None
    machine = plan.this_machine()
    try:
        runs = plan.plan(sweeps, machine)
    except ConfigError:  # an algorithm from outside, of which the plan knows nothing
        return None
    training = [
        sum(run.seconds.values()) * (run.steps - steps)
        for run, steps in zip(runs, done or [0] * len(runs), strict=True)
    ]
    seconds = sum(training) + evaluation_seconds(sweeps, machine)
    return SLOWER * seconds / side_by_side.at_once([first.model.name] * len(training)) / 60


def quickstart_minutes() -> float | None:
    """:func:`expected_minutes` of the main job."""
    sweeps = load_sweep(Path(__file__).parent / "sweeps" / "quickstart.yaml")
    return expected_minutes([sweep for sweep in sweeps if isinstance(sweep, LanguageModelSweep)])


def evaluation_seconds(sweeps: Sequence[LanguageModelSweep], machine: plan.Machine) -> float:
    """Seconds of sampling all answers of the evaluation, as long as they may be."""
    first, shape = sweeps[0], shape_of(sweeps[0].model.name)
    prompt, answer, prompts = plan.prompt_tokens(first), first.model.max_new_tokens, first.evaluation.prompts
    policies = [planned.spec for sweep in sweeps for planned in runs_of(sweep)]
    refining = 1 + sum(isinstance(spec, StackelbergGDA) for spec in policies)
    rounds = first.evaluation.rounds * refining + len(policies) + 1 - refining
    width = plan.bytes_per_number(first, machine)
    context = prompt + answer + plan.TURN_TOKENS
    reading = prompts * plan.read_flops(shape, context, 1) / machine.flops[width]
    return rounds * (reading + answer * plan.decode_seconds(shape, prompts, context, width, machine))
