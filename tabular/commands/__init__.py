"""The commands of ``python -m tabular``, one module each: ``add(commands)`` declares one, its ``run`` answers."""

COMMANDS = {
    "solve": "solve a preference matrix as RLHF, NLHF or SLHF",
    "run": "follow a learning dynamic on a preference matrix",
    "describe": "winners, cycles, transitivity of a preference matrix",
    "audit": "which axioms each solution concept satisfies",
}
"""Each with what it does; its module is imported when it is asked for."""
