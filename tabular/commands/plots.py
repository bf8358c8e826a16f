"""The pictures of ``--plot``, of the figures in :mod:`slhf.figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slhf import figures
from slhf.algorithms import Algorithm
from tabular import social_choice
from tabular.audit import Verdict
from tabular.axioms import AXIOMS, RULES
from tabular.commands.run import likeliest
from tabular.dynamics import Trace
from tabular.preferences import PreferenceMatrix


def _side(n: int) -> float:
    """Inches for a heat map of n alternatives."""
    return float(np.clip(1.4 + 0.38 * n, 2.5, 6))


SYMBOLS = {"tau": "τ", "tau_leader": "$τ_L$", "tau_follower": "$τ_F$"}


def solution(path: Path, P: PreferenceMatrix, concept: str, solved: Any, temperatures: dict[str, float]) -> None:
    """The preferences beside the policies of a concept; of the Follower, its replies to the Leader's answers."""
    figure, axes = figures.new_figure(columns=2, width=_side(P.n) + 0.3, height=_side(P.n))
    figures.heat_map(axes[0, 0], P.p, P.labels, P.labels, "p(row preferred to column)")
    if concept == "slhf":
        policies = {"Leader": solved.policy, "Follower, on average": solved.policy @ solved.follower}
    else:
        policies = {concept.upper(): solved.policy}
    given = ", ".join(f"{SYMBOLS[name]} = {tau:g}" for name, tau in temperatures.items())
    figures.bars(axes[0, 1], policies, P.labels, "probability", f"{concept.upper()}, {given}")
    figures.save(figure, path)


def structure(path: Path, P: PreferenceMatrix) -> None:
    """The preferences, best Copeland score first, so that wins below the diagonal are upsets; see the title."""
    order = np.argsort(-social_choice.copeland_score(P), kind="stable")
    sort = np.ix_(order, order)
    labels = [P.labels[i] for i in order]
    upsets = np.tril(social_choice.cycle_edges(P)[sort])
    note = "outlined: upsets that close majority cycles" if upsets.any() else "no majority cycle"
    figure, axes = figures.new_figure(width=_side(P.n) + 0.6, height=_side(P.n) + 0.3)
    figures.heat_map(axes[0, 0], P.p[sort], labels, labels, f"p(row preferred to column)\n{note}", outlined=upsets)
    axes[0, 0].set_ylabel("best Copeland score first")
    figures.save(figure, path)


def verdicts(path: Path, found: list[Verdict], concepts: list[str], axioms: list[str]) -> None:
    """Concept against axiom, with the size of the counterexample or of the search."""
    cells = {(v.rule, v.axiom): v for v in found}
    figure, axes = figures.new_figure(width=1.3 + 1.25 * len(concepts), height=0.9 + 0.42 * len(axioms))
    figures.verdict_table(
        axes[0, 0],
        [[cells[rule, axiom].counterexample is None for rule in concepts] for axiom in axioms],
        [[cells[rule, axiom].summary for rule in concepts] for axiom in axioms],
        [AXIOMS[axiom].title for axiom in axioms],
        [RULES[rule].title for rule in concepts],
        '"none in N": no counterexample among N profiles of 3 or 4 alternatives; no proof',
    )
    figures.save(figure, path)


def convergence(path: Path, P: PreferenceMatrix, spec: Algorithm, trace: Trace) -> None:
    """Gap and distance over the steps, and the path in the simplex or, not for 3 alternatives, in time."""
    figure, axes = figures.new_figure(columns=2, width=3.4, height=2.7)
    series = {"gap": trace.gaps, "distance (total variation)": trace.distances}
    figures.convergence(axes[0, 0], trace.steps, series, "step", "gap, or distance to the exact solution", spec.name)
    paths = {"policy": trace.policies, "average": trace.averages}
    if P.n == 3:
        figures.simplex_path(axes[0, 1], paths, P.labels, trace.solution, "from open circle to dot")
    else:
        shown = likeliest(trace.policies[-1])
        lines = {P.labels[i]: (np.maximum(trace.steps, 0.5), trace.policies[:, i]) for i in shown}
        figures.curves(axes[0, 1], lines, "step", "probability", "policy; exact solution dotted")
        for k, i in enumerate(shown):
            axes[0, 1].axhline(trace.solution[i], color=figures.PALETTE[k], linewidth=0.8, linestyle=":")
        axes[0, 1].set(xscale="log", ylim=(0, None))
        legend = axes[0, 1].get_legend()  # it may cover lines, so that they must not cross its names
        if legend is not None:  # a single alternative has none
            legend.set_frame_on(True)
            legend.get_frame().set(alpha=0.85, edgecolor="none")
    figures.save(figure, path)
