"""Draw the README's figure: three problems, three answers, and what refinement adds.

python experiments/readme_figure.py figures/readme.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from slhf import figures
from slhf.refinement import refine
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf

ROTATIONS = [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"]]
ROUNDS = 6


def main(path: Path) -> None:
    """Three panels, each from the public API."""
    game = PreferenceMatrix.from_rankings(ROTATIONS, [0.40, 0.35, 0.25])
    figure, axes = figures.new_figure(columns=3, width=2.6, height=2.3)
    labels = list(game.labels)
    figures.heat_map(axes[0, 0], game.p, labels, labels, "p(row preferred to column)")

    solutions = {
        "RLHF": solve_rlhf(game, tau=0).policy,
        "NLHF": solve_nlhf(game).policy,
        "SLHF Leader": solve_slhf(game, 0, 0).policy,
    }
    for i, (name, policy) in enumerate(solutions.items()):
        axes[0, 1].bar(np.arange(3) + 0.27 * (i - 1), policy, 0.25, label=name, color=figures.PALETTE[i])
    axes[0, 1].set(xticks=range(3), ylabel="probability", ylim=(0, 1.3))
    axes[0, 1].set_title("temperature 0: three answers", fontsize=9)
    axes[0, 1].set_xticklabels(labels)
    axes[0, 1].legend(loc="upper right", ncols=2, frameon=False, fontsize=7)

    equal = PreferenceMatrix.from_rankings(ROTATIONS)
    series = {}
    for tau in (0.01, 0.1):
        solution = solve_slhf(equal, tau, tau)
        series[f"SLHF, τ = {tau:g}"] = (range(1, ROUNDS + 1), reaching_a(solution.policy, solution.follower))
    nash = solve_nlhf(equal).policy
    series["NLHF, resampled"] = (range(1, ROUNDS + 1), reaching_a(nash, np.tile(nash, (3, 1))))
    figures.curves(axes[0, 2], series, "answers seen", "P(A was among them)", "refinement")
    axes[0, 2].set(ylim=(0, 1.04))
    figures.save(figure, path)


def reaching_a(policy: np.ndarray, follower: np.ndarray) -> list[float]:
    """Probability that the answer A has come up within 1, 2, ... rounds: the mass not yet absorbed by A."""

    def without_a(mass: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], mass[1:]])

    searching = refine(lambda: without_a(policy), lambda mass: without_a(mass @ follower), ROUNDS)
    return [1 - float(mass.sum()) for mass in searching]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
