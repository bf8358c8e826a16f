"""Exact solutions of preference games: RLHF, NLHF and SLHF on matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slhf.lazy import exports

if TYPE_CHECKING:
    from tabular import robustness
    from tabular.adversary import attacks, flip_budgets, worst_case
    from tabular.best_of import best_of, best_of_sampled, compute_parity
    from tabular.concepts import NLHF, RLHF, SLHF
    from tabular.nash import NashSolution, solve_nlhf
    from tabular.preferences import PreferenceMatrix
    from tabular.profiles import Profile
    from tabular.refinement import CommunicatingClass, Refinement, refinement_curve
    from tabular.rlhf import RLHFSolution, solve_rlhf
    from tabular.sensitivity import condition, influence, nlhf_sensitivity, rlhf_sensitivity, slhf_sensitivity
    from tabular.stackelberg import StackelbergSolution, duality_gap, solve_slhf

__all__ = [
    "NLHF",
    "RLHF",
    "SLHF",
    "CommunicatingClass",
    "NashSolution",
    "PreferenceMatrix",
    "Profile",
    "RLHFSolution",
    "Refinement",
    "StackelbergSolution",
    "attacks",
    "best_of",
    "best_of_sampled",
    "compute_parity",
    "condition",
    "duality_gap",
    "flip_budgets",
    "influence",
    "nlhf_sensitivity",
    "refinement_curve",
    "rlhf_sensitivity",
    "robustness",
    "slhf_sensitivity",
    "solve_nlhf",
    "solve_rlhf",
    "solve_slhf",
    "worst_case",
]

__getattr__ = exports(
    __name__,
    {
        "robustness": "robustness",
        "attacks": "adversary",
        "flip_budgets": "adversary",
        "worst_case": "adversary",
        "best_of": "best_of",
        "best_of_sampled": "best_of",
        "compute_parity": "best_of",
        "NLHF": "concepts",
        "RLHF": "concepts",
        "SLHF": "concepts",
        "NashSolution": "nash",
        "solve_nlhf": "nash",
        "PreferenceMatrix": "preferences",
        "Profile": "profiles",
        "CommunicatingClass": "refinement",
        "Refinement": "refinement",
        "refinement_curve": "refinement",
        "RLHFSolution": "rlhf",
        "solve_rlhf": "rlhf",
        "condition": "sensitivity",
        "influence": "sensitivity",
        "nlhf_sensitivity": "sensitivity",
        "rlhf_sensitivity": "sensitivity",
        "slhf_sensitivity": "sensitivity",
        "StackelbergSolution": "stackelberg",
        "duality_gap": "stackelberg",
        "solve_slhf": "stackelberg",
    },
)
