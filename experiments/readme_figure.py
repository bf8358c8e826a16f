"""Draw the README's figure: three problems, three answers, and what refinement adds.

python experiments/readme_figure.py figures/readme.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from slhf import figures
from slhf.refinement import refine
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf

ROTATIONS = [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"]]
ROUNDS = 6


COLOURS = dict(zip(("RLHF", "NLHF", "SLHF Leader"), figures.PALETTE, strict=False))
"""A concept has the same colour in all panels."""


@mpl.rc_context(figures.STYLE)
def main(path: Path) -> None:
    """Three panels, each from the public API."""
    game = PreferenceMatrix.from_rankings(ROTATIONS, [0.40, 0.35, 0.25])
    figure, axes = figures.new_figure(columns=3, width=2.6, height=2.3)
    labels = list(game.labels)
    figures.heat_map(axes[0, 0], game.p, labels, labels, "p(row preferred to column)")
    solution_bars(axes[0, 1], game)
    refinement_curves(axes[0, 2], PreferenceMatrix.from_rankings(ROTATIONS))
    figures.save(figure, path)


def solution_bars(axes: Axes, game: PreferenceMatrix) -> None:
    """What each problem makes of the preferences at temperature 0."""
    solutions = {
        "RLHF": solve_rlhf(game, tau=0).policy,
        "NLHF": solve_nlhf(game).policy,
        "SLHF Leader": solve_slhf(game, 0, 0).policy,
    }
    for i, (name, policy) in enumerate(solutions.items()):
        axes.bar(np.arange(3) + 0.27 * (i - 1), policy, 0.25, label=name, color=COLOURS[name])
    axes.set(xticks=range(3), xticklabels=list(game.labels), ylabel="probability", ylim=(0, 1.3))
    axes.set(xlabel="answer", title="temperature 0: three answers")
    axes.grid(False, axis="x")
    axes.legend(loc="upper right", ncols=2)


def refinement_curves(axes: Axes, game: PreferenceMatrix) -> None:
    """How soon a user who wants A meets it, refining with the Follower or resampling from the Nash equilibrium."""
    rounds = range(1, ROUNDS + 1)
    for tau, line in ((0.01, "-"), (0.1, "--")):
        solution = solve_slhf(game, tau, tau)
        reached = reaching_a(solution.policy, solution.follower)
        style: dict[str, Any] = {"marker": "o", "markersize": 3, "color": COLOURS["SLHF Leader"]}
        axes.plot(rounds, reached, line, label=f"SLHF, τ = {tau:g}", **style)
    nash = solve_nlhf(game).policy
    reached = reaching_a(nash, np.tile(nash, (3, 1)))
    axes.plot(rounds, reached, marker="s", label="NLHF, resampled", color=COLOURS["NLHF"], markersize=3)
    axes.set(xlabel="answers seen", ylabel="P(A was among them)", title="refinement", ylim=(0, 1.04))
    axes.legend(loc="lower right")


def reaching_a(policy: np.ndarray, follower: np.ndarray) -> list[float]:
    """Probability that the answer A has come up within 1, 2, ... rounds: the mass not yet absorbed by A."""

    def without_a(mass: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], mass[1:]])

    searching = refine(lambda: without_a(policy), lambda mass: without_a(mass @ follower), ROUNDS)
    return [1 - float(mass.sum()) for mass in searching]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/readme_figure.py figures/readme.png")
    main(Path(sys.argv[1]))
