"""Exact solutions of preference games: RLHF, NLHF and SLHF on matrices."""

from tabular.nash import NashSolution, solve_nlhf
from tabular.preferences import PreferenceMatrix
from tabular.profiles import Profile
from tabular.rlhf import RLHFSolution, solve_rlhf
from tabular.stackelberg import StackelbergSolution, duality_gap, solve_slhf

__all__ = [
    "NashSolution",
    "PreferenceMatrix",
    "Profile",
    "RLHFSolution",
    "StackelbergSolution",
    "duality_gap",
    "solve_nlhf",
    "solve_rlhf",
    "solve_slhf",
]
